import json

from labs.bench.infonce import GRADIENTS, WAYS, run
from labs.cli.main import main


def test_a_fifth_of_the_memory_at_the_same_loss_and_gradients():
    said = []
    result = run(1, batch=4096, width=64, calls=1, progress=said.append)
    assert all(any(way in sentence for sentence in said) for way in WAYS)
    assert set(result["difference"]) == {"loss", *GRADIENTS}
    assert max(result["difference"].values()) <= 1e-5
    # Three matrices of [B, B] in float32 at least: had it measured nothing, this shows.
    assert result["peak_mb"]["plain"] > 3 * 4 * 4096**2 / 2**20
    assert result["memory_against_plain"] <= 0.2
    assert result["time_against_plain"] > 0  # how fast is for `labs bench`: no clock in the tests


def test_it_is_listed(capsys):
    assert main(["bench", "--list", "--json"]) in (None, 0)
    assert "infonce" in [row["name"] for row in json.loads(capsys.readouterr().out)]
