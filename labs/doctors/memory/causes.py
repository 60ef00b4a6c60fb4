"""The causes that the commands can name: stable ids, what they are called, what helps.

The rules that recognise them are in `log/` (from a log), `death/` (from what a run left behind) and
`snapshot/` (from a snapshot). Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labs.doctors.finding import Evidence, Finding
from labs.doctors.memory.remedies import remedies


@dataclass(frozen=True)
class Cause:
    id: str
    title: str
    section: str
    remedies: tuple[str, ...]
    next_command: str

    def finding(
        self,
        confidence: str,
        evidence: Iterable[Evidence],
        why: str,
        title: str | None = None,
        first: Iterable[str] = (),
    ) -> Finding:
        """This cause, found. `first`: remedies that go before those of the catalogue."""
        return Finding(
            cause=self.id,
            title=title or self.title,
            confidence=confidence,
            evidence=list(evidence),
            why=why,
            remedies=remedies(dict.fromkeys((*first, *self.remedies))),
            next_command=self.next_command,
            section=self.section,
        )


PREDICT = "oom_doctor.py predict MODEL --batch … --sequence-length …"
RUN = "oom_doctor.py run -- <your command>"
SMI = "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv"

_ALL = [
    Cause("request_exceeds_gpu", "One request is larger than the whole GPU: a shape is wrong or quadratic",
          "ch09 Reading the message", ("fix_shape", "fewer_visual_tokens", "sdpa", "shorter_sequence"), RUN),
    Cause("vision_tokens", "Images or frames became too many patches for the vision tower's attention",
          "ch09 Visual tokens", ("fewer_visual_tokens", "flash_attention", "freeze_tower_no_grad", "smaller_batch"), PREDICT),
    Cause("attention_quadratic", "Attention is computed with the full T × T matrix",
          "ch09 Attention", ("sdpa", "flash_attention", "shorter_sequence", "smaller_batch"), PREDICT),
    Cause("logits", "Logits: tokens × vocabulary, with a float32 copy and a gradient of the same size",
          "ch09 Logits", ("chunked_loss", "smaller_batch", "shorter_sequence"), PREDICT),
    Cause("optimizer_states", "The optimizer's states do not fit, or its step needs a copy that does not",
          "ch09 Optimizer", ("adam8bit", "lora", "zero2", "offload_optimizer", "paged_adam"), PREDICT),
    Cause("activations", "The activations of a step need more than weights, gradients and states leave",
          "ch09 Activations", ("checkpointing", "smaller_batch", "chunked_loss", "shorter_sequence", "offload_activations"), PREDICT),
    Cause("length_outlier", "One batch of the data is larger than those before it",
          "ch09 The worst batch", ("shorter_sequence", "fewer_visual_tokens", "checkpointing", "chunked_loss"),
          "oom_doctor.py predict MODEL --data FILE"),
    Cause("capacity", "The run itself needs more than this GPU has: no waste, no other process",
          "ch09 Where memory goes", ("checkpointing", "smaller_batch", "chunked_loss", "lora", "qlora", "adam8bit", "zero3", "larger_gpu"), PREDICT),
    Cause("model_load", "The weights alone do not fit while the model is loaded or moved to the GPU",
          "ch09 Where memory goes", ("bf16", "qlora", "activate_sharding", "zero3", "larger_gpu"), PREDICT),
    Cause("sharding_not_active", "Sharding is configured, but each GPU got the whole model",
          "ch09 Sharding", ("activate_sharding", "zero3", "bf16"), RUN),
    Cause("checkpoint_on_gpu", "A checkpoint was loaded straight onto the GPU, beside the model",
          "ch09 Loading and saving", ("map_location",), RUN),
    Cause("ranks_share_gpu", "Several ranks use the same GPU",
          "ch09 Sharing a GPU", ("map_location", "close_other_process"), SMI),
    Cause("checkpoint_save", "Saving gathers or copies the whole model on the GPU",
          "ch09 Loading and saving", ("save_sharded",), RUN),
    Cause("evaluation_gather", "Evaluation keeps the logits of all batches on the GPU",
          "ch09 Evaluation", ("eval_accumulation", "eval_batch"), RUN),
    Cause("evaluation", "The evaluation step needs more than the training step left",
          "ch09 Evaluation", ("eval_batch", "eval_accumulation", "empty_cache_between_phases", "chunked_loss"), RUN),
    Cause("generation", "Generation: the KV cache and the prompt's activations, times beams or samples",
          "ch09 Generation", ("fewer_generations", "key_value_cache", "shorter_sequence", "fewer_visual_tokens"), PREDICT),
    Cause("rollouts", "Reinforcement learning: rollouts and the scoring of completions, beside the trainer",
          "ch09 Generation", ("fewer_generations", "chunked_loss", "vllm_share", "checkpointing"), PREDICT),
    Cause("preference_pairs", "Preference training: chosen and rejected in one forward, and a reference model",
          "ch09 Preference training", ("bf16", "precomputed_reference", "smaller_batch", "chunked_loss", "checkpointing"), PREDICT),
    Cause("fragmentation", "Fragmentation: enough memory is reserved or free, but in no usable piece",
          "ch09 Fragmentation", ("expandable_segments", "empty_cache_between_phases", "shorter_sequence", "smaller_batch"), RUN),
    Cause("allocator_config", "max_split_size_mb and expandable_segments are both set: reserved memory leaks",
          "ch09 Fragmentation", ("one_allocator_option",), RUN),
    Cause("graph_pools", "CUDA graphs hold private memory pools that nothing else may use",
          "ch09 Fragmentation", ("update_library", "smaller_batch"), RUN),
    Cause("memory_grows", "Memory grows from step to step: something keeps what each step makes",
          "ch09 Leaks", ("detach_losses", "eval_accumulation", "fewer_workers"), RUN),
    Cause("other_process", "Something other than this process holds much of the GPU",
          "ch09 Sharing a GPU", ("close_other_process", "vllm_share", "leave_room"), SMI),
    Cause("gpu_already_full", "The GPU was full before this process could begin",
          "ch09 Sharing a GPU", ("close_other_process",), SMI),
    Cause("outside_pytorch", "The GPU was full when a library outside PyTorch's allocator asked for memory",
          "ch09 Outside PyTorch", ("leave_room", "smaller_batch", "empty_cache_between_phases"), SMI),
    Cause("nccl_memory", "NCCL found no memory for its buffers: PyTorch's cache had taken the GPU",
          "ch09 Outside PyTorch", ("leave_room", "smaller_batch", "zero3", "empty_cache_between_phases"), SMI),
    Cause("inference_engine_share", "The inference engine's share of the GPU: too small for its model and cache, or too large for what is beside it",
          "ch09 Sharing a GPU", ("vllm_share", "fewer_generations", "shorter_sequence"), SMI),
    Cause("smallest_batch", "The search for a batch size ended at zero: the batch is not what does not fit",
          "ch09 Where memory goes", ("lora", "qlora", "checkpointing", "adam8bit", "shorter_sequence"), PREDICT),
    Cause("sysmem_spill", "More is allocated than the GPU has: the driver spills to system memory (Windows, WSL)",
          "ch09 WSL and containers", ("native_memory", "smaller_batch", "checkpointing"), "nvidia-smi"),
    Cause("driver_refused", "The driver refused a request that the free memory would have covered",
          "ch09 WSL and containers", ("native_memory", "close_other_process", "raise_limit"), "nvidia-smi; nvidia-smi -L"),
    Cause("memory_limit", "A limit set for this process ended it, not the GPU's size",
          "ch09 Reading the message", ("raise_limit", "smaller_batch", "checkpointing"), RUN),
    Cause("garbage_size", "The requested size is garbage: follow the error that came before it",
          "ch09 Reading the message", (), "CUDA_LAUNCH_BLOCKING=1 <your command>"),
    Cause("host_memory", "The host ran out of memory (not the GPU)",
          "ch09 Host memory", ("host_ram", "fewer_workers", "offload_optimizer"), RUN),
    Cause("container_memory_limit", "The job's own memory limit killed it (container, cgroup or scheduler), not the GPU",
          "ch09 Host memory", ("host_ram", "fewer_workers"), "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.events"),
    Cause("shared_memory", "/dev/shm is full: workers or NCCL could not share memory",
          "ch09 Shared memory", ("shm_size", "fewer_workers"), "df -h /dev/shm"),
    Cause("file_descriptors", "Open files ran out, not memory",
          "ch09 Shared memory", ("file_sharing", "fewer_workers"), "ulimit -n"),
    Cause("page_file", "Windows' page file is too small for what the processes reserve",
          "ch09 WSL and containers", ("fewer_workers", "host_ram"), "systeminfo"),
    Cause("one_large_tensor", "One tensor takes a large part of the GPU: a long sample, a large image or video, or a quadratic shape",
          "ch09 Reading the message", ("fix_shape", "shorter_sequence", "fewer_visual_tokens", "chunked_loss", "sdpa", "eval_accumulation"), RUN),
    Cause("unknown", "Memory ran out here; nothing in the log says why",
          "ch09 Reading the message", ("smaller_batch", "checkpointing"), RUN),
    Cause("kernel_shared_memory", "A kernel asked for more shared memory than a multiprocessor has: not GPU memory",
          "ch09 Outside PyTorch", ("update_library",), "python -m torch.utils.collect_env"),
]  # fmt: skip

CAUSES: dict[str, Cause] = {cause.id: cause for cause in _ALL}
