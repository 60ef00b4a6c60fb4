"""The catalogue of remedies: what to write in which framework, what it saves, what it costs.

One place for all commands: `predict` fills in the bytes it predicts, `explain` and `run` order the
remedies by cause. Costs that are numbers are quoted from a source, which stands beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from labs.doctors.finding import Remedy

TORCH, HF, ACCELERATE, DEEPSPEED = "torch", "transformers", "accelerate", "deepspeed"


def _r(
    id: str, title: str, saves: str, costs: str, section: str = "ch09 Remedies", **how: str
) -> Remedy:
    return Remedy(id, title, how, None, saves, costs, section)


_ALL = [
    _r(
        "smaller_batch",
        "Halve the micro-batch",
        "Halves activations and logits. Weights, gradients and optimizer states stay.",
        "Less parallel work a step; none with accumulation beside it in loss, some in speed.",
        torch="DataLoader(…, batch_size=n // 2)",
        transformers="per_device_train_batch_size=n // 2, gradient_accumulation_steps=2 * k",
        deepspeed='"train_micro_batch_size_per_gpu": n / 2',
    ),
    _r(
        "accumulation",
        "Accumulate gradients over more, smaller micro-batches",
        "Activations of one micro-batch instead of the whole batch, at the same loss.",
        "Time for more, smaller kernels; the loss must be divided by all tokens of the step.",
        transformers="gradient_accumulation_steps=k",
        accelerate="Accelerator(gradient_accumulation_steps=k) and accelerator.accumulate(model)",
        deepspeed='"gradient_accumulation_steps": k',
    ),
    _r(
        "checkpointing",
        "Checkpoint activations",
        "Keeps one tensor a layer instead of all that a layer saves.",
        "20 to 40 % of throughput (stas00/ml-engineering, training/performance); often won back "
        "by a larger batch.",
        torch="torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)",
        transformers="gradient_checkpointing=True; with frozen embeddings also "
        "model.enable_input_require_grads()",
        deepspeed='model.gradient_checkpointing_enable(), or "activation_checkpointing": {…}',
    ),
    _r(
        "sdpa",
        "Use fused attention (SDPA) instead of eager",
        "The attention matrix, heads × T × T a layer, is never built.",
        "None in speed. SDPA falls back to the quadratic form with some dense masks and dtypes.",
        torch="F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        transformers='from_pretrained(…, attn_implementation="sdpa"), without output_attentions',
    ),
    _r(
        "flash_attention",
        "Use FlashAttention-2 with packed or padded-free batches",
        "Attention memory linear in T, also with padding, where SDPA needs a dense mask.",
        "The flash-attn package, an Ampere or newer GPU, fp16 or bf16.",
        transformers='from_pretrained(…, attn_implementation="flash_attention_2", dtype=torch.bfloat16)',
    ),
    _r(
        "chunked_loss",
        "Compute the loss in chunks of tokens",
        "Tokens × vocabulary logits, their float32 copy and their gradient never exist at once.",
        "Little time; the head's matmul runs in pieces. Not with losses that need all logits.",
        torch="labs.losses.linear_generation_loss(hidden, head.weight, labels)",
        transformers="use_liger_kernel=True (TRL: not its chunked loss with vision models)",
    ),
    _r(
        "lora",
        "Train LoRA adapters instead of all weights",
        "Gradients and optimizer states of the frozen weights: 12 of 18 bytes a parameter with "
        "mixed-precision AdamW. Activations stay.",
        "Less capacity to learn; the learning rate must be set anew.",
        transformers="peft.get_peft_model(model, LoraConfig(r=16, …))",
    ),
    _r(
        "qlora",
        "Load the frozen weights in 4 bits (QLoRA)",
        "Weights at about 0.55 bytes a parameter instead of 2, above what LoRA saves.",
        "About a third more time a step (Qwen-VL README: 7.9 against 5.9 s).",
        transformers='BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
        "bnb_4bit_compute_dtype=torch.bfloat16)",
    ),
    _r(
        "adam8bit",
        "Keep optimizer states in 8 bits",
        "6 of AdamW's 8 bytes a trained parameter.",
        "None to speak of in speed; watch the loss of embeddings.",
        torch="bitsandbytes.optim.AdamW8bit(parameters)",
        transformers='optim="adamw_bnb_8bit"',
    ),
    _r(
        "paged_adam",
        "Let optimizer states page to host memory",
        "Optimizer states leave the GPU when it is full.",
        "Slow steps while pages move; the host needs the room.",
        transformers='optim="paged_adamw_8bit"',
    ),
    _r(
        "bf16",
        "Load and train in bfloat16",
        "Half of weights and activations against float32. Loaded without a dtype, many "
        "checkpoints become float32.",
        "Small updates are rounded away in pure bf16: keep float32 weights for full training.",
        torch="torch.autocast('cuda', dtype=torch.bfloat16)",
        transformers="from_pretrained(…, dtype=torch.bfloat16), bf16=True",
        deepspeed='"bf16": {"enabled": true}',
    ),
    _r(
        "freeze_tower_no_grad",
        "Run the frozen vision tower under no_grad",
        "All activations of the tower. requires_grad=False alone still saves them when its "
        "input needs a gradient.",
        "The tower cannot be trained.",
        torch="with torch.no_grad(): features = tower(pixels)",
    ),
    _r(
        "fewer_visual_tokens",
        "Give the model smaller images, fewer tiles or frames",
        "Tokens fall with the pixels, and attention in the tower with their square.",
        "Small text and detail are lost.",
        transformers="processor(…, max_pixels=1280 * 28 * 28) (Qwen), fewer tiles or "
        "do_image_splitting=False (others), fewer video frames",
    ),
    _r(
        "shorter_sequence",
        "Cut, filter or sort by length",
        "Activations and logits in proportion to the longest sample of a batch; eager attention "
        "to its square.",
        "Long samples are cut or left out. Never cut inside image tokens.",
        transformers="max_length=… (SFTConfig), group_by_length=True to meet the worst batch early",
    ),
    _r(
        "offload_optimizer",
        "Keep optimizer states on the host",
        "All optimizer states, and the float32 weights with DeepSpeed.",
        "16 bytes a parameter of host memory, and a slower step.",
        deepspeed='"offload_optimizer": {"device": "cpu", "pin_memory": true}',
    ),
    _r(
        "offload_activations",
        "Move saved activations to the host",
        "Saved activations, up to the bandwidth of the bus.",
        "Time for copies, host memory.",
        torch="torch.autograd.graph.save_on_cpu(pin_memory=True)",
        transformers="activation_offloading=True (TRL)",
    ),
    _r(
        "zero2",
        "Shard optimizer states and gradients (ZeRO-2)",
        "Optimizer states and gradients divided by the number of GPUs.",
        "Little more communication.",
        deepspeed='"zero_optimization": {"stage": 2}',
        accelerate="accelerate config: FSDP SHARD_GRAD_OP, or DeepSpeed stage 2",
    ),
    _r(
        "zero3",
        "Shard the weights too (ZeRO-3, FSDP)",
        "Weights, gradients and optimizer states divided by the number of GPUs.",
        "Weights are gathered in every forward and backward.",
        deepspeed='"zero_optimization": {"stage": 3}',
        accelerate="accelerate config: FSDP FULL_SHARD",
    ),
    _r(
        "activate_sharding",
        "Make sharding active before the model is built",
        "Without it every GPU holds the whole model first.",
        "None.",
        transformers="create TrainingArguments(deepspeed=…) before from_pretrained; start with "
        "accelerate launch, deepspeed or torchrun, not python",
        deepspeed="with deepspeed.zero.Init(): model = Model(config)",
        accelerate="fsdp_cpu_ram_efficient_loading: true, and no device_map",
    ),
    _r(
        "expandable_segments",
        "Let the allocator grow its segments",
        "What is reserved and cannot be used, up to the unallocated number of the message.",
        "None known in speed. Not together with max_split_size_mb; not on every platform.",
        torch="export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True (PYTORCH_ALLOC_CONF from "
        "2.9 on)",
    ),
    _r(
        "one_allocator_option",
        "Set expandable_segments or max_split_size_mb, never both",
        "Reserved memory stays near what is allocated.",
        "None.",
        torch="export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    ),
    _r(
        "empty_cache_between_phases",
        "Return cached blocks between phases",
        "Blocks of the last phase that do not fit the sizes of the next one, or that another "
        "library on the same GPU needs.",
        "A synchronisation and new allocations; never once a step.",
        torch="del outputs; gc.collect(); torch.cuda.empty_cache()",
        transformers="torch_empty_cache_steps=k",
    ),
    _r(
        "eval_accumulation",
        "Move predictions to the host while evaluating, or never gather logits",
        "The logits of the whole evaluation set stay off the GPU.",
        "Host memory, some time.",
        transformers="eval_accumulation_steps=8, preprocess_logits_for_metrics=lambda logits, "
        "labels: logits.argmax(-1), or prediction_loss_only=True",
    ),
    _r(
        "eval_batch",
        "Evaluate with a smaller batch",
        "Evaluation's logits, in proportion. Its batch size is a setting of its own (8 by default).",
        "Time.",
        transformers="per_device_eval_batch_size=1",
        torch="with torch.inference_mode(): …",
    ),
    _r(
        "detach_losses",
        "Keep numbers, not graphs",
        "The graph of every step that something still points to.",
        "None.",
        torch="total += loss.detach() (or loss.item()); no tensors in lists that outlive the step",
    ),
    _r(
        "close_other_process",
        "Free the GPU of other processes",
        "All that they hold.",
        "Ask whose they are first.",
        torch="nvidia-smi; then kill PID, or CUDA_VISIBLE_DEVICES=<a free one>",
    ),
    _r(
        "shm_size",
        "Give the container more shared memory",
        "Nothing on the GPU: /dev/shm is where workers hand over batches (64 MiB by default in "
        "Docker).",
        "Host memory, only as far as it is used.",
        torch="docker run --shm-size=16g (or --ipc=host); Kubernetes: an emptyDir with medium: "
        "Memory at /dev/shm",
    ),
    _r(
        "fewer_workers",
        "Fewer data loader workers, less prefetch",
        "Host and shared memory: workers × prefetch_factor × batch, and a copy of the data set's "
        "Python objects in each.",
        "Data may arrive later.",
        torch="DataLoader(num_workers=2, prefetch_factor=2, persistent_workers=False)",
        transformers="dataloader_num_workers=2",
    ),
    _r(
        "host_ram",
        "Give the job more host memory, or load less of it",
        "Nothing on the GPU.",
        "A larger request to the scheduler.",
        torch="sbatch --mem=…, docker run --memory=…, resources.limits.memory; memory-mapped data "
        "(datasets, np.memmap)",
        transformers="low_cpu_mem_usage=True, safetensors; one rank loading: "
        "fsdp_cpu_ram_efficient_loading",
        deepspeed="offload to NVMe instead of CPU, or no offload",
    ),
    _r(
        "file_sharing",
        "Raise the limit of open files, or share tensors by file name",
        "Nothing in memory: it is file descriptors that ran out.",
        "None.",
        torch='ulimit -n 65536, or torch.multiprocessing.set_sharing_strategy("file_system")',
    ),
    _r(
        "precomputed_reference",
        "Compute the reference model's log-probabilities beforehand",
        "The reference model and its forward.",
        "One pass over the data before training.",
        transformers="precompute_ref_log_probs=True (TRL DPO); with LoRA no second model is needed",
    ),
    _r(
        "fewer_generations",
        "Fewer or shorter generations at once",
        "KV cache and the logits of the scored completions, in proportion.",
        "A smaller group is a noisier advantage.",
        transformers="num_generations, max_completion_length (TRL GRPO); num_beams=1; "
        "per_device_train_batch_size",
    ),
    _r(
        "vllm_share",
        "Set the inference engine's share of the GPU, and what it must hold",
        "What the engine reserves for its KV cache. 'No available memory for the cache blocks' "
        "asks for more share or a shorter max_model_len; an out-of-memory in its sampler, its "
        "warm-up or in a trainer beside it for less share or a smaller max_num_seqs.",
        "A smaller share means fewer sequences at once.",
        transformers="vllm_gpu_memory_utilization=0.3, vllm_enable_sleep_mode=True (TRL)",
        torch="LLM(…, gpu_memory_utilization=…, max_model_len=…, max_num_seqs=…, tensor_parallel_size=…)",
    ),
    _r(
        "map_location",
        "Load checkpoints to the host, each rank for itself",
        "The saved tensors otherwise return to the GPU they were saved from: all ranks to GPU 0.",
        "None.",
        torch='torch.load(path, map_location="cpu", mmap=True); torch.cuda.set_device(local_rank)',
    ),
    _r(
        "save_sharded",
        "Save without gathering the model on the GPU",
        "A full copy of the weights on each GPU while saving.",
        "None; one more step to merge shards.",
        torch="FullStateDictConfig(offload_to_cpu=True, rank0_only=True), or SHARDED_STATE_DICT",
        accelerate="fsdp_state_dict_type: SHARDED_STATE_DICT",
        deepspeed='"stage3_gather_16bit_weights_on_model_save": false, then zero_to_fp32.py',
    ),
    _r(
        "smaller_buckets",
        "Shrink communication buckets",
        "A few bucket sizes × 2 or 4 bytes.",
        "More, smaller messages.",
        deepspeed='"reduce_bucket_size": 5e7, "allgather_bucket_size": 5e7, '
        '"stage3_max_live_parameters": 1e8',
    ),
    _r(
        "leave_room",
        "Leave room for what PyTorch does not manage",
        "NCCL, cuBLAS and the driver allocate outside PyTorch's cache.",
        "The share that you leave free.",
        torch="torch.cuda.set_per_process_memory_fraction(0.95); NCCL_BUFFSIZE, fewer channels",
    ),
    _r(
        "larger_gpu",
        "Use a GPU with more memory, or more GPUs",
        "",
        "Money. `oom_doctor.py predict` says what fits before you pay.",
    ),
    _r(
        "raise_limit",
        "Raise the limit that was set for this process",
        "The difference between limit and GPU.",
        "Others on the GPU have less.",
        torch="torch.cuda.set_per_process_memory_fraction(1.0)",
    ),
    _r(
        "native_memory",
        "Turn off spilling to system memory, and free the desktop's share",
        "Nothing: it turns a crawl into an honest error.",
        "None.",
        torch="NVIDIA control panel: CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback; "
        ".wslconfig: memory=…",
    ),
    _r(
        "fix_shape",
        "Find the wrong shape",
        "All of it: no freeing can help a request larger than the GPU.",
        "None.",
        torch="print the shapes of the failing call's inputs; check that a length is not taken "
        "from max_position_embeddings and that images are resized",
    ),
    _r(
        "key_value_cache",
        "Generate with the KV cache, and less of it",
        "Without use_cache every token recomputes, and keeps, the whole prefix.",
        "None.",
        transformers="gradient_checkpointing_disable() and use_cache=True around generate; "
        "max_new_tokens, smaller batch",
    ),
    _r(
        "update_library",
        "Change the version of the library",
        "What the fault wastes.",
        "A version change in the middle of a project.",
        torch="pip install --upgrade PACKAGE, or the version before the one that broke",
    ),
]  # fmt: skip

REMEDIES: dict[str, Remedy] = {remedy.id: remedy for remedy in _ALL}


def remedy(id: str, saves_bytes: int | None = None, saves_why: str | None = None) -> Remedy:
    """One remedy of the catalogue, with what it is predicted to save here.

    Raises KeyError for an id that the catalogue does not have.
    """
    found = REMEDIES[id]
    return dataclasses.replace(
        found,
        saves_bytes=found.saves_bytes if saves_bytes is None else saves_bytes,
        saves_why=found.saves_why if saves_why is None else saves_why,
    )


def remedies(ids: Iterable[str]) -> list[Remedy]:
    return [remedy(id) for id in ids]
