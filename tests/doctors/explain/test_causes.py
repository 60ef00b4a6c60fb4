"""One log a cause, in the format of the library that prints it; and logs that only look like one."""

import subprocess
import sys

import pytest

from labs.doctors.memory.causes import CAUSES
from labs.doctors.memory.log.explain import explain_text
from labs.doctors.memory.remedies import REMEDIES
from tests.doctors.explain.rendering import FULL, GIB, MIB, error, ranked, traceback

TRAINER = "transformers/trainer.py"
LLAMA = "transformers/models/llama/modeling_llama.py"
QWEN = "transformers/models/qwen2_vl/modeling_qwen2_vl.py"
STEP = (TRAINER, "training_step", "loss = self.compute_loss(model, inputs)")
CALL = ("torch/nn/modules/module.py", "_call_impl", "return forward_call(*args, **kwargs)")
MAIN = ("/job/train.py", "<module>", "trainer.train()")
STEPS = "\n".join(f"{{'loss': 1.{n}, 'grad_norm': 0.5, 'epoch': 0.{n}}}" for n in range(10, 50))


def failing(*frames, release="2.4", **numbers):
    return traceback(MAIN, *frames, last=error(release, **{**FULL, **numbers}))


HUGE = {"tried": 272 * GIB, "allocated": 18 * GIB, "free": 60 * GIB}

# name: (log, cause, lowest confidence that is right)
LOGS = {
    "image not resized": (
        failing(CALL, (QWEN, "forward", "hidden_states = self.visual(pixel_values, grid_thw)"), CALL,
                (QWEN, "forward", "attn_output = F.scaled_dot_product_attention(q, k, v, mask)"), **HUGE),
        "vision_tokens", "likely"),
    "larger than the GPU, no traceback": (error("2.1", **{**FULL, **HUGE}), "request_exceeds_gpu", "certain"),
    "eager attention": (
        failing(STEP, CALL, (LLAMA, "eager_attention_forward", "attn_weights = torch.matmul(query, key.transpose(2, 3))"),
                tried=16 * GIB, allocated=60 * GIB, free=10 * GIB),
        "attention_quadratic", "likely"),
    "logits to float": (
        failing(STEP, CALL, (LLAMA, "forward", "logits = self.lm_head(hidden_states)"), CALL,
                ("transformers/loss/loss_utils.py", "ForCausalLMLoss", "logits = logits.float()")),
        "logits", "likely"),
    "cross entropy without numbers": (
        traceback(MAIN, STEP, ("torch/nn/functional.py", "cross_entropy", "return torch._C._nn.cross_entropy_loss("),
                  last="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 6.54 GiB."),
        "logits", "likely"),
    "first optimizer step": (
        failing((TRAINER, "_inner_training_loop", "self.optimizer.step()"),
                ("torch/optim/adamw.py", "_init_group", 'state["exp_avg_sq"] = torch.zeros_like(')),
        "optimizer_states", "likely"),
    "backward": (failing((TRAINER, "training_step", "self.accelerator.backward(loss, **kwargs)"),
                         ("torch/autograd/graph.py", "_engine_run_backward", "return Variable._execution_engine.run_backward(")),
                 "activations", "likely"),
    "forward": (failing(STEP, CALL, (LLAMA, "forward", "down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))")),
                "activations", "likely"),
    "one long batch": (
        STEPS + "\n" + failing(STEP, CALL, (LLAMA, "forward", "x = self.mlp(x)"), tried=5 * GIB),
        "length_outlier", "likely"),
    "evaluation gathers": (
        STEPS + "\n" + failing((TRAINER, "evaluation_loop", "all_preds = nested_concat(all_preds, logits)"),
                ("transformers/trainer_pt_utils.py", "torch_pad_and_concatenate", "return torch.cat((tensor1, tensor2), dim=0)")),
        "evaluation_gather", "likely"),
    "evaluation step": (
        failing((TRAINER, "evaluation_loop", "losses, logits, labels = self.prediction_step(model, inputs)"), CALL,
                (LLAMA, "forward", "logits = logits.float()")),
        "evaluation", "likely"),
    "save": (failing((TRAINER, "_save_checkpoint", "self.save_model(output_dir)"),
                     ("accelerate/accelerator.py", "get_state_dict", "state_dict = model.state_dict()")),
             "checkpoint_save", "likely"),
    "save as a warning": (
        "/opt/lib/torch/distributed/fsdp/_state_dict_utils.py:312: UserWarning: Failed to clone() tensor with name "
        "lm_head.weight on rank 1. Error: " + error("1.13", **FULL).partition(": ")[2],
        "checkpoint_save", "certain"),
    "load": (failing(("/job/train.py", "main", "model = AutoModelForCausalLM.from_pretrained(name).to(device)")),
             "model_load", "likely"),
    "checkpoint back on its GPU": (
        failing(("torch/serialization.py", "load", "return _legacy_load(opened_file, map_location)"),
                ("torch/serialization.py", "_cuda_deserialize", "return obj.cuda(device)")),
        "checkpoint_on_gpu", "likely"),
    "sharding not active": (
        'ds_config = {"zero_optimization": {"stage": 3}}\n'
        + failing(("deepspeed/runtime/engine.py", "_configure_distributed_model", "self.module.to(self.device)")),
        "sharding_not_active", "likely"),
    "generation": (
        failing(("transformers/generation/utils.py", "_sample", "outputs = model_forward(**model_inputs)"), CALL,
                ("transformers/cache_utils.py", "update", "self.keys = torch.cat([self.keys, key_states], dim=-2)")),
        "generation", "likely"),
    "DPO": (failing(("trl/trainer/dpo_trainer.py", "concatenated_forward", "outputs = model(input_ids, **kwargs)"), CALL,
                    (LLAMA, "forward", "x = self.mlp(x)")),
            "preference_pairs", "likely"),
    "fragmentation": (
        error("2.1", tried=1700 * MIB, total=6 * GIB, free=0, allocated=3 * GIB, unallocated=2300 * MIB),
        "fragmentation", "likely"),
    "fragmentation by the sum": (
        error("1.13", tried=1700 * MIB, total=8 * GIB, free=1400 * MIB, allocated=int(3.6 * GIB), unallocated=1500 * MIB),
        "fragmentation", "likely"),
    "a neighbour by name": (
        error("2.4", **{**FULL, "allocated": 20 * GIB, "free": GIB, "tried": 4 * GIB},
              processes=((77, 57 * GIB),), own=21 * GIB),
        "other_process", "likely"),
    "a neighbour by the gap": (
        error("1.8", tried=GIB, total=24 * GIB, free=GIB // 2, allocated=6 * GIB, unallocated=GIB // 2),
        "other_process", "likely"),
    "ranks on one GPU": (
        error("2.4", **{**FULL, "allocated": 18 * GIB, "free": GIB, "tried": 2 * GIB},
              processes=((1, 19 * GIB), (2, 19 * GIB), (3, 19 * GIB)), own=19 * GIB),
        "ranks_share_gpu", "likely"),
    "spill": (error("2.4", tried=GIB, total=8 * GIB, free=0, allocated=11 * GIB, unallocated=GIB), "sysmem_spill", "certain"),
    "driver refused": (error("2.4", tried=GIB, total=24 * GIB, free=15 * GIB, allocated=8 * GIB, unallocated=0), "driver_refused", "likely"),
    "limit": (error("2.4", tried=GIB, total=80 * GIB, free=60 * GIB, allocated=19 * GIB, unallocated=GIB // 2, allowed=20 * GIB),
              "memory_limit", "certain"),
    "garbage": ("RuntimeError: CUDA out of memory. Tried to allocate more than 1EB memory.", "garbage_size", "certain"),
    "no traceback, no waste": (error("2.4", **FULL), "capacity", "likely"),
    "most of the GPU in one tensor": (
        error("2.4", tried=20 * GIB, total=22 * GIB, free=11 * GIB, allocated=8 * GIB, unallocated=2 * GIB),
        "one_large_tensor", "likely"),
    "the line of code alone": (
        "    denom = (exp_avg_sq.sqrt() / bias_correction2_sqrt).add_(eps)\n"
        + error("1.13", **{**FULL, "unallocated": 0, "tried": 3 * GIB}), "optimizer_states", "likely"),
    "message before its traceback": (
        error("2.4", **FULL) + "\n" + traceback(MAIN, ("torch/nn/functional.py", "cross_entropy", "return f("),
                                                last="torch.OutOfMemoryError"), "logits", "likely"),
    "vLLM blocks": ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
                    "inference_engine_share", "certain"),
    "vLLM share": ("ValueError: Free memory on device (20.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 GiB).",
                   "inference_engine_share", "certain"),
    "NCCL": ("h:1:2 [0] enqueue.cc:47 NCCL WARN Cuda failure 2 'out of memory'\n"
             "torch.distributed.DistBackendError: NCCL error: unhandled cuda error", "nccl_memory", "likely"),
    "bitsandbytes": ("Error out of memory at line 380 in file /src/csrc/pythonInterface.c", "outside_pytorch", "likely"),
    "cuBLAS": ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "outside_pytorch", "likely"),
    "Accelerate's search": ("RuntimeError: No executable batch size found, reached zero.", "smallest_batch", "likely"),
    "kernel": ("[ 12.3] Out of memory: Killed process 4242 (python3) total-vm:91234567kB, anon-rss:64234567kB", "host_memory", "certain"),
    "cgroup": ("[ 12.3] memory: usage 67108864kB, limit 67108864kB, failcnt 33\n"
               "[ 12.4] Memory cgroup out of memory: Killed process 4242 (python3) total-vm:91234567kB", "container_memory_limit", "certain"),
    "Slurm": ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n"
              "srun: error: node07: task 3: Out Of Memory", "container_memory_limit", "certain"),
    "Kubernetes": ("    Last State:     Terminated\n      Reason:       OOMKilled\n      Exit Code:    137", "container_memory_limit", "certain"),
    "Ray": ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "host_memory", "certain"),
    "worker killed": ("RuntimeError: DataLoader worker (pid 33) is killed by signal: Killed.", "host_memory", "likely"),
    "shm": ("RuntimeError: DataLoader worker (pid 33) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit.", "shared_memory", "certain"),
    "shm of NCCL": ("h:1:2 [1] NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9637888), error: No space left on device (28)",
                    "shared_memory", "certain"),
    "descriptors": ("RuntimeError: unable to open shared memory object </torch_1_2> in read-write mode: Too many open files (24)",
                    "file_descriptors", "certain"),
    "page file": ("OSError: [WinError 1455] The paging file is too small for this operation to complete.", "page_file", "certain"),
    "limit of the job by DeepSpeed's lines": (
        "[utils.py:789:see_memory_usage] CPU Virtual Memory:  used = 30.1 GB, percent = 8.3%\n"
        "E0101 torch/distributed/elastic/multiprocessing/api.py:826] failed (exitcode: -9) local_rank: 0 (pid: 42) of binary: python",
        "container_memory_limit", "likely"),
    "137 alone": ("step 10 loss 1.2\nstep 11 loss 1.1\ncommand terminated with exit code 137", "host_memory", "likely"),
    "both allocator options": (
        "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,max_split_size_mb:128\n"
        + "\n".join(f"step {n} reserved: {200 + n * 300} MiB" for n in range(20)), "allocator_config", "certain"),
    "leak": ("\n".join(f"step {n} loss 1.0 memory_allocated: {10 + n * 0.7:.2f} GiB" for n in range(80)) + "\n" + error("2.4", **FULL),
             "memory_grows", "likely"),
    "memory summary": (
        "|                  PyTorch CUDA memory summary, device ID 0                 |\n"
        "| Allocated memory      |   30720 MiB |   70000 MiB |  900000 MiB |  800000 MiB |\n"
        "| GPU reserved memory   |   76800 MiB |   76800 MiB |  900000 MiB |  800000 MiB |\n"
        "| Non-releasable memory |   40000 MiB |   41000 MiB |  900000 MiB |  800000 MiB |\n"
        "torch.OutOfMemoryError: CUDA out of memory.", "fragmentation", "likely"),
    "full GPU in nvidia-smi": (
        traceback(("/job/a.py", "<module>", "torch.zeros(1).cuda()"), last="RuntimeError: CUDA error: out of memory")
        + "\n| N/A   30C    P0    70W / 400W |  80500MiB / 81920MiB |      0%      Default |"
        "\n|    0   N/A  N/A      9999      C   python                          80400MiB |", "gpu_already_full", "likely"),
    "Triton's shared memory": ("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 163840, Hardware limit: 101376.",
                               "kernel_shared_memory", "certain"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_the_cause_is_named(name):
    log, cause, confidence = LOGS[name]
    report = explain_text(log)
    assert report.verdict == "cause", report
    top = report.findings[0]
    assert (top.cause, top.confidence) == (cause, confidence)
    assert top.evidence and all(evidence.line for evidence in top.evidence)
    assert top.why
    assert top.section and top.section.startswith("ch09 ")
    assert len({remedy.id for remedy in top.remedies}) == len(top.remedies)


def test_every_cause_has_a_log_here_and_known_remedies():
    shown = {cause for _, cause, _ in LOGS.values()}
    # Those that need the rest of a run around them have tests of their own below.
    assert set(CAUSES) - shown <= {"rollouts", "graph_pools", "unknown"}
    for cause in CAUSES.values():
        assert set(cause.remedies) <= set(REMEDIES)


# Tables and launcher lines never carry a rank.
UNRANKED = {"memory summary", "full GPU in nvidia-smi", "NCCL", "shm of NCCL", "137 alone"}


@pytest.mark.parametrize("name", [name for name in LOGS if name not in UNRANKED])
def test_the_same_cause_behind_rank_prefixes_and_noise(name):
    log, cause, _ = LOGS[name]
    noise = "\n".join(f"[rank1]: waiting for the others {n}" for n in range(50))
    report = explain_text(f"{noise}\n{ranked(log, 3)}\n{noise}")
    assert report.findings[0].cause == cause
    assert report.findings[0].evidence[0].rank == 3


UNTOLD = {
    "the class alone": "torch.OutOfMemoryError: CUDA out of memory.",
    "the driver alone": "RuntimeError: CUDA error: out of memory",
    "a forward without numbers": traceback(
        MAIN, STEP, (LLAMA, "forward", "x = self.mlp(x)"), last="RuntimeError: CUDA out of memory."
    ),
    "splinters or need": error(
        "2.4", **{**FULL, "tried": 250 * MIB, "free": 100 * MIB, "unallocated": 4 * GIB, "allocated": int(74.5 * GIB)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_told_is_not_told(name):
    report = explain_text(UNTOLD[name])
    assert report.verdict == "cannot_tell"
    assert all(finding.confidence == "possible" for finding in report.findings)
    assert any("Collect" in note for note in report.notes)


QUIET = {
    "a healthy run": STEPS,
    "advice": "Tip: set gradient_checkpointing to avoid CUDA out of memory errors.\n" + STEPS,
    "a time limit": "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2024-01-01 DUE TO TIME LIMIT ***\n"
    "torch.distributed.elastic.multiprocessing.errors: exitcode : -9 (pid: 3)",
    "killed after another error": traceback(MAIN, STEP, last="ValueError: labels out of range")
    + "\n[ERROR] failed (exitcode: -9) local_rank: 1 (pid: 4242) of binary: python",
    "a NCCL timeout": "[E ProcessGroupNCCL.cpp:587] [Rank 2] Watchdog caught collective operation timeout\n"
    "exitcode: -9",
    "usage lines": "\n".join(
        f"step {n} memory usage step {n} allocated 30.1 GiB" for n in range(90)
    ),
    "static TLS": "ImportError: libgomp.so.1: cannot allocate memory in static TLS block",
    "any other error": traceback(MAIN, last="KeyError: 'pixel_values'"),
}


@pytest.mark.parametrize("name", QUIET)
def test_a_log_without_an_oom_says_so(name):
    report = explain_text(QUIET[name])
    assert (report.verdict, report.findings) == ("no_oom", [])


def test_the_other_error_is_pointed_at():
    report = explain_text(QUIET["any other error"])
    assert any("KeyError" in note for note in report.notes)


@pytest.mark.parametrize(
    "frame, wrong",
    [
        (("/envs/vllm/lib/python3.11/site-packages/torch/nn/functional.py", "linear", "return f(x)"), "inference_engine_share"),
        (("/job/vision/train.py", "step", "x = block(x)"), "vision_tokens"),
        (("/job/run.py", "main", "trainer = build(eval_dataset=data)"), "evaluation"),
        (("/job/run.py", "main", "images = images.to(device)"), "model_load"),
        (("/job/run.py", "main", "loss = model(train_sample)"), "generation"),
        (("/job/run.py", "main", "model.load_state_dict(state)"), "checkpoint_save"),
    ],
)  # fmt: skip
def test_names_around_the_call_do_not_mislead(frame, wrong):
    for size in (30 * MIB, 8 * GIB):
        report = explain_text(failing(frame, tried=size, allocated=70 * GIB))
        assert wrong not in [finding.cause for finding in report.findings]


def test_a_lone_process_in_a_container_is_oneself():
    alone = {**FULL, "processes": ((4242, FULL["total"] - FULL["free"]),)}
    report = explain_text(error("2.4", **alone))
    assert report.findings[0].cause == "capacity"
    assert any("is this process itself" in note for note in report.notes)


def test_in_a_container_the_neighbour_is_the_other_process():
    m = {**FULL, "allocated": 30 * GIB, "free": GIB, "tried": 4 * GIB}
    report = explain_text(error("2.4", **m, processes=((11, 31 * GIB), (12, 46 * GIB))))
    assert report.findings[0].cause in ("other_process", "ranks_share_gpu")
    assert "46.00 GiB" in str(report.findings)


def test_survived_errors_are_not_the_death():
    bars = "\n".join(f"{n}%|##   | {n}/100 [00:10<00:10, 1.0it/s]" for n in range(20, 30))
    early = error("2.4", **{**FULL, "tried": 9 * GIB})
    late = traceback(
        MAIN,
        (TRAINER, "_save_checkpoint", "self.save_model(output_dir)"),
        last=error("2.4", **FULL),
    )
    report = explain_text(f"{early}\nskipping batch\n{bars}\n{late}")
    assert report.findings[0].cause == "checkpoint_save"
    assert any("survived" in note for note in report.notes)


def test_a_gpu_error_explains_the_kill_that_follows():
    report = explain_text(error("2.4", **FULL) + "\n[ERROR] failed (exitcode: -9) local_rank: 1")
    assert report.findings[0].cause == "capacity"
    assert any("consequence" in note for note in report.notes)


def test_mig_slice_and_small_block_are_explained():
    m = {
        "tried": 20 * MIB,
        "total": int(19.62 * GIB),
        "free": MIB,
        "allocated": int(18.9 * GIB),
        "unallocated": 100 * MIB,
    }
    report = explain_text(error("2.4", **m))
    assert any("MIG" in note for note in report.notes)
    assert "says nothing" in report.findings[0].why


def test_rollouts_are_recognised_by_the_trainer():
    log = failing(("trl/trainer/grpo_trainer.py", "_generate", "unwrapped_model.generate(**prompts)"),
                  ("transformers/generation/utils.py", "_sample", "outputs = self(**model_inputs)"))  # fmt: skip
    assert explain_text(log).findings[0].cause == "rollouts"


def test_known_bad_version_is_a_hint_only():
    log = "torch==2.9.1\nloading Qwen2.5-VL\n" + error("2.9", **FULL)
    report = explain_text(log)
    assert report.findings[0].cause == "capacity"
    assert [f.confidence for f in report.findings if f.cause == "known_bad_version"] == ["possible"]
    assert not [f for f in explain_text(log.replace("2.9.1", "2.8.0")).findings if f.cause == "known_bad_version"]  # fmt: skip


@pytest.mark.parametrize(
    "program, cause",
    [
        ("bytearray(1 << 62)", "host_memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "host_memory"),
    ],
)
def test_failures_caused_for_real(program, cause):
    """What Python and the shell really print."""
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True)
    if shown.returncode == -9:
        launched = f"import subprocess; subprocess.run({command!r}, check=True)"
        shown = subprocess.run([sys.executable, "-c", launched], capture_output=True, text=True)
    report = explain_text(shown.stderr)
    assert (report.verdict, report.findings[0].cause) == ("cause", cause), shown.stderr


def test_torchs_own_cpu_allocator():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    report = explain_text(f"RuntimeError: {caught.value}")
    assert report.findings[0].cause == "host_memory"
