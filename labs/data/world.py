"""The offline world as training data: an endless, seeded stream cut to a length."""

from labs.formats import Conversation, parse_conversation
from labs.shapes import Mix, stream_record


class WorldDataset:
    """Map-style: `dataset[i]` is conversation i of the stream, always the same for (mix, seed, i).

    length: how many conversations an epoch has. split: "train", "val" or "test"; the splits share
    no scene. Raises IndexError past the end, so that plain iteration stops.
    """

    def __init__(self, length: int, mix: Mix | None = None, split: str = "train", seed: int = 0):
        self.length, self.mix, self.split, self.seed = length, mix or Mix(), split, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < self.length:
            raise IndexError(index)
        record = stream_record(self.mix, index, self.split, self.seed)
        return parse_conversation(record, where=record["id"])
