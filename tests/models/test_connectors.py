"""Each connector: shapes, parameters by closed form, gradients, symmetries, and the originals."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InternVLConfig,
)
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import (
    InternVLModel,
    InternVLMultiModalProjector,
)

from labs.errors import InputError
from labs.models import build_tiny_llava
from labs.models.connectors import (
    CONNECTORS,
    FlamingoLayer,
    GatedCrossAttention,
    GatedCrossAttentionBlock,
    LinearConnector,
    MLPConnector,
    PerceiverResampler,
    PixelShuffleConnector,
    QFormer,
    look_at_images,
    looking_at,
    pixel_shuffle,
    pixel_unshuffle,
)
from labs.models.connectors.attention import CrossAttention
from labs.models.parts import part_of
from labs.models.vlm import VLM

DV, D, P, Q = 12, 20, 36, 5
FFW = 4


def block_parameters(d, dv):
    """A gated block: LN, q and out, k and v, LN, two matrices, two gates."""
    return 2 * d + 2 * d * d + 2 * dv * d + 2 * d + 2 * FFW * d * d + 2


def resampler_parameters(dv, d, q, depth):
    return q * dv + depth * (4 * dv**2 + 6 * dv + 2 * FFW * dv**2) + 2 * dv + dv * d + d


CASES = {
    "linear": (lambda: LinearConnector(DV, D, P), P, DV * D + D),
    "mlp": (lambda: MLPConnector(DV, D, P), P, DV * D + D * D + 2 * D),
    "mlp without bias": (lambda: MLPConnector(DV, D, P, bias=False), P, DV * D + D * D),
    "pixel_shuffle": (
        lambda: PixelShuffleConnector(DV, D, P, ratio=3), 4, 2 * 9 * DV + 9 * DV * D + D * D + 2 * D
    ),
    "resampler": (
        lambda: PerceiverResampler(DV, D, P, Q, depth=3), Q, resampler_parameters(DV, D, Q, 3)
    ),
    "resampler with positions": (
        lambda: PerceiverResampler(DV, D, P, Q, depth=1, positions=True),
        Q,
        resampler_parameters(DV, D, Q, 1) + P * DV,
    ),
    "q_former": (
        lambda: QFormer(DV, D, P, Q, depth=3, width=8), Q,
        Q * 8 + 16 + 3 * (4 * 64 + 32 + 2 * FFW * 64 + 5 * 8 + 32)
        + 2 * (2 * 64 + 2 * DV * 8 + 32 + 16) + 8 * D + D,
    ),
    "gated_cross_attention": (
        lambda: GatedCrossAttention(DV, D, P, Q, depth=2), Q, resampler_parameters(DV, DV, Q, 2)
    ),
    "gated_cross_attention to patches": (
        lambda: GatedCrossAttention(DV, D, P, num_latents=None), P, 0
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CASES)
def test_shape_number_of_tokens_and_parameters(name):
    make, tokens, parameters = CASES[name]
    connector = make()
    out = connector(torch.randn(3, P, DV))
    width = D if connector.in_sequence else DV
    assert out.shape == (3, tokens, width)
    assert connector.num_visual_tokens == tokens
    assert connector.num_placeholders == (tokens if connector.in_sequence else 1)
    assert sum(p.numel() for p in connector.parameters()) == parameters
    assert f"[{P}, {DV}] -> [{tokens}, {D}]" in repr(connector)


@pytest.mark.parametrize("name", CASES)
def test_gradient_reaches_every_parameter_and_the_features(name):
    connector, features = CASES[name][0](), torch.randn(3, P, DV, requires_grad=True)
    out = connector(features)
    (out * torch.randn_like(out)).sum().backward()
    assert (features.grad.abs().sum(dim=(0, 2)) > 0).all()  # every patch counts
    for parameter_name, parameter in connector.named_parameters():
        # A bias on all keys alike cancels in the softmax.
        if not parameter_name.endswith("k_proj.bias"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-8, parameter_name


@pytest.mark.parametrize("name", CASES)
def test_images_do_not_see_one_another(name):
    connector, features = CASES[name][0](), torch.randn(3, P, DV)
    with torch.no_grad():
        together = connector(features)
        alone = torch.cat([connector(image[None]) for image in features])
    torch.testing.assert_close(together, alone)


def permuted(connector, order):
    features = torch.randn(2, P, DV)
    with torch.no_grad():
        return connector(features), connector(features[:, order])


@settings(max_examples=10)
@given(st.permutations(range(P)))
def test_what_works_patch_by_patch_moves_with_the_patches(order):
    for connector in (LinearConnector(DV, D, P), MLPConnector(DV, D, P)):
        before, after = permuted(connector, order)
        torch.testing.assert_close(after, before[:, order])


@settings(max_examples=10)
@given(st.permutations(range(P)))
def test_learned_queries_do_not_care_for_the_order(order):
    for connector in (PerceiverResampler(DV, D, P, Q), QFormer(DV, D, P, Q)):
        before, after = permuted(connector, order)
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_positions_make_a_resampler_care_for_the_order():
    connector = PerceiverResampler(DV, D, P, Q, positions=True)
    torch.nn.init.normal_(connector.positions)
    before, after = permuted(connector, list(reversed(range(P))))
    assert (before - after).abs().max() > 1e-2


# pixel shuffle


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_pixel_shuffle_loses_nothing(batch, blocks, channels, ratio):
    features = torch.randn(batch, (blocks * ratio) ** 2, channels)
    shuffled = pixel_shuffle(features, ratio)
    assert shuffled.shape == (batch, blocks**2, channels * ratio**2)
    assert torch.equal(pixel_unshuffle(shuffled, ratio), features)


def test_pixel_shuffle_puts_row_then_column_then_channel():
    """The formula, one number at a time."""
    side, ratio, channels = 6, 3, 2
    x = torch.arange(side * side * channels).view(1, side * side, channels)
    y = pixel_shuffle(x, ratio)
    grid, small = x.view(side, side, channels), y.view(side // ratio, side // ratio, -1)
    for i in range(side // ratio):
        for j in range(side // ratio):
            for di in range(ratio):
                for dj in range(ratio):
                    start = (di * ratio + dj) * channels
                    assert torch.equal(
                        small[i, j, start : start + channels], grid[i * ratio + di, j * ratio + dj]
                    )


@settings(max_examples=10)
@given(st.sampled_from([(4, 2), (6, 2), (8, 2)]), st.integers(1, 5))
def test_pixel_shuffle_is_that_of_internvl_and_smolvlm(grid, channels):
    side, ratio = grid
    features = torch.randn(2, side * side, channels * 2)
    ours = pixel_shuffle(features, ratio)
    square = features.view(2, side, side, -1)

    theirs = InternVLModel.pixel_shuffle(None, square, scale_factor=1 / ratio)
    assert torch.equal(ours, theirs.flatten(1, 2))
    assert torch.equal(ours, Idefics3Connector.pixel_shuffle(None, features, ratio))


def test_with_its_weights_the_connector_is_internvls_projector():
    config = InternVLConfig()
    config.vision_config.hidden_size, config.text_config.hidden_size = DV, D
    config.downsample_ratio = 0.5
    theirs, ours = InternVLMultiModalProjector(config), PixelShuffleConnector(DV, D, P)
    torch.nn.init.normal_(theirs.layer_norm.weight)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(2, P, DV)
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(pixel_shuffle(features, 2)))


@pytest.mark.parametrize(
    ("patches", "ratio", "said"), [(37, 2, "no square grid"), (25, 2, "5 x 5 patches")]
)
def test_a_grid_that_cannot_be_cut_is_refused(patches, ratio, said):
    with pytest.raises(InputError, match=said):
        PixelShuffleConnector(DV, D, patches, ratio)
    with pytest.raises(InputError, match=said):
        pixel_shuffle(torch.zeros(1, patches, DV), ratio)


# attention


def test_cross_attention_is_the_formula_head_by_head():
    attention = CrossAttention(8, 6, num_heads=2, bias=True)
    states, context = torch.randn(2, 3, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool().expand(2, 3, 4)
    q, k, v = attention.q_proj(states), attention.k_proj(context), attention.v_proj(context)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = (q[..., h] @ k[..., h].transpose(1, 2) / math.sqrt(4)).exp() * mask
        heads.append(scores / scores.sum(-1, keepdim=True).clamp(min=1e-30) @ v[..., h])
    wanted = attention.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(states, context, mask), wanted)
    # A query that may look nowhere gets nothing, and sends no NaN back.
    attention(states, context, mask).sum().backward()
    assert torch.equal(wanted[:, 2], attention.out_proj.bias.expand(2, 8))
    assert all(p.grad.isfinite().all() for p in attention.parameters())
    with pytest.raises(InputError, match="8 cannot be split into 3 heads"):
        CrossAttention(8, 6, num_heads=3)


def test_with_its_weights_the_q_former_is_transformers():
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        encoder_hidden_size=DV, cross_attention_frequency=2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = Blip2QFormerModel(config).eval()
    ours = QFormer(DV, D, P, Q, depth=3, width=16)
    pairs = {"norm": theirs.layernorm}
    for i, layer in enumerate(theirs.encoder.layer):
        looks = [("self", layer.attention)]
        if layer.has_cross_attention:
            looks.append(("cross", layer.crossattention))
        for kind, attention in looks:
            inner = attention.attention
            place = f"blocks.{i}.{kind}_attention."
            pairs |= {place + "q_proj": inner.query, place + "k_proj": inner.key}
            pairs |= {place + "v_proj": inner.value, place + "out_proj": attention.output.dense}
            pairs[f"blocks.{i}.{kind}_norm"] = attention.output.LayerNorm
        pairs[f"blocks.{i}.mlp.0"] = layer.intermediate_query.dense
        pairs[f"blocks.{i}.mlp.2"] = layer.output_query.dense
        pairs[f"blocks.{i}.mlp_norm"] = layer.output_query.LayerNorm
    for name, module in pairs.items():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        ours.get_submodule(name).load_state_dict(module.state_dict())
    copied = {f"{name}.{leaf}" for name in pairs for leaf in ("weight", "bias")}
    assert {n for n, _ in ours.named_parameters()} - copied == {
        "queries", "proj.weight", "proj.bias",
    }  # fmt: skip
    features = torch.randn(2, P, DV)
    with torch.no_grad():
        wanted = theirs(
            query_embeds=ours.queries.expand(2, -1, -1), encoder_hidden_states=features
        ).last_hidden_state
        torch.testing.assert_close(ours(features), ours.proj(wanted), atol=1e-5, rtol=1e-4)


# gated cross-attention


def flamingo(every=1, num_latents=Q):
    """(VLM with gates, the language model as it was)."""
    llava, _ = build_tiny_llava(seed=1)
    parts = VLM.from_llava(llava)
    untouched = copy.deepcopy(parts.language_model)
    connector = GatedCrossAttention(96, 128, 36, num_latents, every=every)
    vlm = VLM(parts.vision_tower, connector, parts.language_model, 3)
    return vlm.eval(), untouched.eval()


IDS = torch.tensor([[9, 3, 10, 3, 11, 12], [13, 14, 15, 3, 16, 17], [18, 19, 20, 21, 22, 23]])


def pixels(n=3):
    return torch.randn(n, 3, 48, 48)


@pytest.mark.parametrize("every", [1, 2])
def test_at_step_zero_it_is_the_text_model_to_the_bit(every):
    vlm, text_model = flamingo(every)
    layers = vlm.language_model.model.layers
    assert [type(x) is FlamingoLayer for x in layers] == [i % every == 0 for i in range(3)]
    with torch.no_grad():
        assert torch.equal(vlm(IDS, pixels()).logits, text_model(IDS).logits)
        assert torch.equal(vlm(IDS[2:]).logits, text_model(IDS[2:]).logits)


def train_step(vlm, images):
    loss = vlm(IDS, images, labels=IDS).loss
    vlm.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p for n, p in vlm.named_parameters() if part_of(n) == "connector"}


def test_the_gates_learn_first_and_then_everything():
    vlm, _ = flamingo()
    images = pixels()
    parameters = train_step(vlm, images)
    assert len(parameters) > 40
    for name, parameter in parameters.items():
        assert (parameter.grad.abs().max() > 0) == name.endswith("_gate"), name
    with torch.no_grad():
        for parameter in parameters.values():
            parameter -= 0.1 * parameter.grad.sign()
    for name, parameter in train_step(vlm, images).items():
        assert parameter.grad.abs().max() > 0, name


def test_the_gated_blocks_count_as_connector_by_closed_form():
    vlm, text_model = flamingo()
    counted = sum(p.numel() for n, p in vlm.named_parameters() if part_of(n) == "connector")
    assert counted == resampler_parameters(96, 96, Q, 2) + 3 * block_parameters(128, 96)
    rest = sum(p.numel() for n, p in vlm.named_parameters() if part_of(n) == "language_model")
    assert rest == sum(p.numel() for p in text_model.parameters())


def open_gates(vlm):
    for module in vlm.modules():
        if isinstance(module, GatedCrossAttentionBlock):
            torch.nn.init.constant_(module.attention_gate, 1.0)
            torch.nn.init.constant_(module.ffw_gate, -0.5)


def test_a_token_sees_the_last_image_before_it_and_no_other():
    """Changing an image changes the tokens from its marker on, and no other sample.

    One gated layer at the top, so that nothing is passed on by self-attention after it.
    """
    vlm, _ = flamingo()
    layers = vlm.language_model.model.layers
    for i in (0, 1):
        layers[i] = layers[i].decoder_layer
    open_gates(vlm)
    seen = {0: [(0, 1), (0, 2)], 1: [(0, 3), (0, 4), (0, 5)], 2: [(1, 3), (1, 4), (1, 5)]}
    images = pixels()
    states = []
    layers[2].decoder_layer.register_forward_pre_hook(lambda _, a: states.append(a[0]))
    with torch.no_grad():
        vlm(IDS, images)
        for image, places in seen.items():
            changed = images.clone()
            changed[image] = torch.randn(3, 48, 48)
            vlm(IDS, changed)
            moved = (states[-1] != states[0]).any(dim=-1)
            assert [tuple(x) for x in moved.nonzero().tolist()] == places


def test_without_an_image_before_it_a_token_is_the_text_models():
    vlm, text_model = flamingo()
    open_gates(vlm)
    with torch.no_grad():
        logits, plain = vlm(IDS, pixels()).logits, text_model(IDS).logits
    for row, first in enumerate([1, 3, 6]):
        assert torch.equal(logits[row, :first], plain[row, :first])
        assert (logits[row, first:] != plain[row, first:]).any(dim=-1).all()


def test_look_at_images_gives_each_sample_its_own():
    features = torch.arange(3.0).view(3, 1, 1).expand(3, 2, 4)
    found = look_at_images(IDS, features, 3)
    assert found["visual_features"].shape == (3, 2, 2, 4)
    assert found["visual_features"][:, :, 0, 0].tolist() == [[0, 1], [2, 0], [0, 0]]
    mask = found["visual_mask"].int().argmax(dim=2) + found["visual_mask"].any(dim=2).int()
    assert mask.tolist() == [[0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1], [0] * 6]
    with pytest.raises(
        InputError, match=r"Sample 1 has 1 image placeholder, .*3 placeholders and 2"
    ):
        look_at_images(IDS, features[:2], 3)


def test_looking_at_leaves_nothing_behind():
    vlm, text_model = flamingo()
    open_gates(vlm)
    images = look_at_images(IDS, vlm.encode_images(pixels()), 3)
    with torch.no_grad():
        with looking_at(vlm.language_model, **images):
            assert not torch.equal(vlm.language_model(IDS).logits, text_model(IDS).logits)
        assert torch.equal(vlm.language_model(IDS).logits, text_model(IDS).logits)


def test_gates_are_inserted_once():
    vlm, _ = flamingo()
    with pytest.raises(InputError, match="already has gated layers"):
        vlm.connector.insert(vlm.language_model)


def test_the_table_of_connectors_is_complete():
    made = {type(make()) for make, _, _ in CASES.values()}
    assert made == set(CONNECTORS.values())
