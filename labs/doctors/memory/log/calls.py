"""From a traceback to a cause: which call asked for the memory that was not there.

Used after the arithmetic of `gpu.py`: numbers prove, calls refine. Patterns are matched on the
innermost frames (path, function and code) unless a rule says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from labs.doctors.finding import size
from labs.doctors.memory.log.frames import Frame, Traceback
from labs.doctors.memory.log.guess import Guess
from labs.doctors.memory.log.messages import OutOfMemory

GIB = 1 << 30
INNER = 5  # frames counted as "where it happened"; wrappers of torch.nn add two for each module

PLUMBING = re.compile(
    r"torch[/\\](?:nn[/\\]modules[/\\]module|_dynamo|utils[/\\]_contextlib|_tensor\.py|_ops|autograd[/\\]function)"
    r"|accelerate[/\\](?:hooks|utils[/\\]operations)|_call_impl|_wrapped_call_impl|decorate_context"
)
LOGITS = re.compile(
    r"cross_entropy|log_softmax|lm_head|logsumexp|selective_log_softmax|entropy_from_logits"
    r"|\blogits\s*=|logits\.(?:float|to|contiguous|gather|clone|view|reshape|log_softmax)|compute_log_?probs|shift_logits|get_batch_logps"
    r"|logprobs_from_logits|_get_per_token_logps|per_token_logps|loss_function|ForCausalLMLoss|gather_log_probs|CrossEntropyLoss"
)
ATTENTION = re.compile(
    r"eager_attention|attn_weights|attention_scores|attention_probs|torch\.(?:matmul|bmm)\(q|baddbmm"
    r"|q(?:uery)?(?:_states|_layer)?\s*@\s*k|softmax\(.*(?:attn|scores|sim)|einsum\(.*(?:q|sim)|causal_mask|_make_causal|masking_utils"
    r"|_expand_mask|_prepare_\w*attention_mask|_update_causal_mask|4d_(?:causal_)?attention_mask|alibi|relative_position_bias|attention_mask\[|get_attn_mask|attn\s*=\s*\(?q|sim\s*=\s*"
)
SDPA = re.compile(r"scaled_dot_product_attention|sdpa_attention|_sdpa")
VISION = re.compile(
    r"(?i)vision|visual|\bvit\b|_vit|siglip|\bclip\b|_clip|clip_|intern_?vit|eva_vit|image_(?:tower|encoder|features)"
    r"|pixel_values|patch_embed|encode_images|video_features|get_image_features|preprocessor|controlnet"
)
GATHER = re.compile(
    r"nested_concat|torch_pad_and_concatenate|nested_gather|pad_across_processes|gather_for_metrics"
    r"|_pad_across|gather_function|all_preds|all_logits|EvalLoopContainer|predictions|torch\.cat\(|concat|all_gather_object"
)
CACHE = re.compile(
    r"cache_utils|past_key_value|key_cache|DynamicCache|StaticCache|_reorder_cache|repeat_interleave|index_select"
)
PREFERENCE = re.compile(
    r"(?:dpo|kto|orpo|simpo|cpo)_?trainer|concatenated_forward|compute_ref(?:erence)?_log_?probs",
    re.I,
)
ROLLOUT = re.compile(
    r"grpo|ppo_trainer|rloo|rollout|reinforce|openrlhf|verl[/\\]|lmm_r1|experience_maker|make_experience",
    re.I,
)
# The package, not an environment or a project that is called so.
ENGINE = re.compile(
    r"(?:site-packages|dist-packages)[/\\](?:vllm|sglang|lmdeploy)[/\\]"
    r"|[/\\](?:vllm[/\\](?:worker|v1|engine|executor|model_executor|device_allocator)|sglang[/\\]srt)[/\\]"
)
RESTORE = re.compile(
    r"_cuda_deserialize|default_restore_location|restore_location|serialization\.py.*(?:_cuda|obj\.cuda|\.cuda\()|wrap_storage|_load_optimizer|map_location|UntypedStorage\(.*device"
)
STATES_MADE = re.compile(
    r"exp_avg\w*[\"'\]]*\s*=\s*torch\.(?:zeros|empty)|_init_group|initialize_optimizer_states"
)
MOVE = re.compile(
    r"_move_model_to_device|_configure_distributed_model|param_applied|module\.to\(|model\.to\(|model\.cuda\(|\.to\(self\.(?:args\.)?device|_apply\b|prepare_model|DistributedDataParallel"
)
SHARDED = re.compile(
    r"(?i)zero_?(?:stage|optimization)?[\"']?\s*[:=]?\s*3\b|zero-?3|\bfsdp\b|stage3|deepspeed_?config|[\"']stage[\"']:\s*3"
)
GATHER_WEIGHTS = re.compile(
    r"fetch_sub_module|all_gather_(?:coalesced|params|into_tensor)|_all_gather|partitioned_param_coordinator|unshard|_flat_param\.py|flat_param"
)


def inner(traceback: Traceback) -> list[Frame]:
    """The innermost frames without torch's own wrappers."""
    frames = [frame for frame in traceback.frames if not PLUMBING.search(frame.words)]
    return frames[-INNER:]


def _name(frame: Frame) -> str:
    """A frame without its folders: a project's name must not pass for a part of the model."""
    file = frame.path.replace("\\", "/").rpartition("/")[2]
    return f"{file} {frame.function} {frame.code}"


def guesses(
    m: OutOfMemory | None,
    traceback: Traceback,
    phase: str | None,
    steps: int | None,
    setup: str,
) -> Iterator[Guess]:
    """Causes by the calls, the most telling first.

    `m`: the sentence, if the log has it. `phase`: as `frames.phase_of` says. `steps`: training
    steps finished before. `setup`: the text in which the log names its sharding.
    """
    if not traceback.frames:
        return
    calls = [frame.words for frame in inner(traceback)]
    deep, last = "\n".join(calls), "\n".join(calls[-2:])
    names = "\n".join(map(_name, inner(traceback)))
    text = traceback.text
    large = m is not None and (
        m.tried >= 4 * GIB or (m.total is not None and m.tried >= 0.15 * m.total)
    )

    if (m is not None and m.total is not None and m.tried > m.total) or (
        m is not None and m.tried > 192 * GIB
    ):
        yield from _impossible(deep, names)
        return
    if phase == "save":
        yield Guess("checkpoint_save", "likely", "The call that failed was writing the model: a full "
                    "state was gathered or copied on the GPU, beside everything training holds. What "
                    "was written may be incomplete.")  # fmt: skip
        return
    if ENGINE.search(text) and phase in ("load", "generate", "forward", None):
        yield Guess("inference_engine_share", "likely", "The call that failed belongs to the inference "
                    "engine: its weights, its KV cache and its profiling run share the GPU with "
                    "whatever else is on it.")  # fmt: skip
        return
    if phase == "evaluate":
        if GATHER.search(last):
            yield Guess("evaluation_gather", "likely", "The evaluation loop was joining the outputs of "
                        "its batches: samples × tokens × vocabulary collect on the GPU until the set "
                        "is through.")  # fmt: skip
        else:
            what = (
                " in the loss, where logits and their float32 copy are made"
                if LOGITS.search(last)
                else ""
            )
            yield Guess("evaluation", "likely", f"The call that failed{what} is part of the evaluation: "
                        "its batch size and its lengths are its own settings, and gradients and "
                        "optimizer states are still there.")  # fmt: skip
        return
    if phase == "load":
        yield from _load(text, deep, setup)
        return
    if phase == "optimizer":
        made = STATES_MADE.search(deep) is not None
        first = made or steps is None or steps <= 1
        yield Guess("optimizer_states", "likely", "The call that failed is the optimizer's step. " + (
            "AdamW's two states are made in the first one: forward and backward fitted, the states "
            "came on top." if first else "Its temporary copies come on top of states and gradients."
        ))  # fmt: skip
        return
    rl = ROLLOUT.search(text) is not None
    if phase == "generate":
        if rl:
            yield Guess("rollouts", "likely", "The call that failed generates rollouts inside a "
                        "reinforcement learning step.")  # fmt: skip
        else:
            kv = " growing the KV cache" if CACHE.search(last) else ""
            yield Guess("generation", "likely", f"The call that failed is generation{kv}: memory goes "
                        "with batch × beams × (prompt + new tokens), and a video's or image's prefill "
                        "stands at its start.")  # fmt: skip
        return
    if LOGITS.search(last) and not (VISION.search(names) and not re.search("lm_head|logits", last)):
        yield Guess("logits", "likely", "The call that failed makes logits or the loss from them: "
                    "tokens × vocabulary, in float32 for the loss, and once more for the gradient."
                    + (" Preference pairs double the tokens." if PREFERENCE.search(text) else ""),
                    first=("precomputed_reference",) if PREFERENCE.search(text) else ())  # fmt: skip
        return
    vision = VISION.search(names) is not None
    if ATTENTION.search(last) or (SDPA.search(last) and large):
        if vision:
            yield Guess("vision_tokens", "likely" if large else "possible", "The call that failed is "
                        "attention inside the vision tower: its size goes with the square of the "
                        "patches of an image, and no text length limits it.")  # fmt: skip
        else:
            how = (
                ""
                if ATTENTION.search(last)
                else " (SDPA takes this path with some dense masks, dtypes and head sizes)"
            )
            yield Guess("attention_quadratic", "likely" if large or re.search("eager|attn_weights", last) else "possible",
                        f"The call that failed builds the attention matrix, heads × T × T{how}.")  # fmt: skip
        if vision or large:
            return
    if vision and not ATTENTION.search(last):
        yield Guess("vision_tokens", "likely" if large else "possible", "The call that failed is inside "
                    "the vision tower: its activations go with the patches of all images of the batch.")  # fmt: skip
    if PREFERENCE.search(text):
        yield Guess("preference_pairs", "likely", "The step is one of preference training: chosen and "
                    "rejected answers go through the model as one batch, and a reference model may "
                    "lie beside it.")  # fmt: skip
        return
    if rl:
        yield Guess("rollouts", "possible", "The step belongs to reinforcement learning: completions, "
                    "their scores and extra models share the GPU.")  # fmt: skip
        return
    if phase in ("forward", "backward", "loss"):
        yield from _step(phase, deep, steps)


def _impossible(deep: str, names: str) -> Iterator[Guess]:
    if VISION.search(names):
        yield Guess("vision_tokens", "likely", "The call that asked for it is inside the vision tower: "
                    "an image or video that was not resized becomes tens of thousands of patches, and "
                    "attention squares them.", first=("fewer_visual_tokens",))  # fmt: skip
    elif ATTENTION.search(deep) or SDPA.search(deep):
        yield Guess("attention_quadratic", "likely", "The call that asked for it is attention: the "
                    "matrix heads × T × T at this length.")  # fmt: skip
    elif LOGITS.search(deep):
        yield Guess("logits", "likely", "The call that asked for it makes logits: tokens × "
                    "vocabulary.")  # fmt: skip


def _load(text: str, deep: str, setup: str) -> Iterator[Guess]:
    if RESTORE.search(text):
        yield Guess("checkpoint_on_gpu", "likely", "torch.load was putting saved tensors back onto the "
                    "GPU they came from, while the model was there already; with several ranks all of "
                    "them land on the same GPU.")  # fmt: skip
        return
    if MOVE.search(deep) and SHARDED.search(setup):
        yield Guess("sharding_not_active", "likely", "The call that failed moves the whole model to the "
                    "GPU, although the log speaks of ZeRO-3 or FSDP: the model was built before "
                    "sharding was set up, or the launcher did not start it.")  # fmt: skip
        return
    yield Guess("model_load", "likely", "The call that failed loads the model or moves it to the GPU: "
                "nothing of training is there yet, the weights alone (in this dtype) do not fit.")  # fmt: skip


def _step(phase: str, deep: str, steps: int | None) -> Iterator[Guess]:
    if steps is not None and steps >= 10:
        yield Guess("length_outlier", "likely", f"{steps:,} steps fitted before this one. What differs "
                    "between steps is the data: a longer sample, a larger image, a fuller pack.")  # fmt: skip
        return
    gathering = " while gathering sharded weights" if GATHER_WEIGHTS.search(deep) else ""
    yield Guess("activations", "likely", f"The call that failed is in the {phase} pass{gathering}, where "
                "activations are saved and used.")  # fmt: skip


# How lines of vLLM's own processes begin.
ENGINE_LINE = re.compile(
    r"multiproc_(?:executor|worker_utils)\.py:\d+\]|\((?:Vllm|VLLM_?)?Worker(?:Process|_TP|_DP|_PP)\w*\b|\(VllmWorker\b"
    r"|\(EngineCore\w*\b|\b(?:ERROR|WARNING|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w/]+\.py:\d+\] "
)


def engine_process(shown: str, traceback: Traceback) -> list[Guess]:
    """Whether an inference engine's own process printed this line; its calls refine nothing more."""
    if not ENGINE_LINE.search(shown[:400]):
        return []
    sure = bool(traceback.frames)
    return [Guess("inference_engine_share", "likely" if sure else "possible", "The process that ran "
                  "out is the inference engine's own: weights, profiling run, CUDA graphs, sampler "
                  "and KV cache are sized by its options (its share of the GPU, the longest request, "
                  "requests at once, GPUs for one model).")]  # fmt: skip


def request(m: OutOfMemory) -> str:
    """How large the request was, for sentences."""
    return f"{size(m.tried)}" + (f" of {size(m.total)}" if m.total else "")
