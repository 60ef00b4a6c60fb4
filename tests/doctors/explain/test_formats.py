"""Logs as people paste them: notebooks, containers, serving engines, schedulers, cut sentences."""

import pytest

from labs.doctors.memory.log.explain import explain_text
from labs.doctors.memory.log.messages import parse_messages
from tests.doctors.explain.rendering import FULL, GIB, MIB, error, sentence, traceback

STEPS = "\n".join(f"{{'loss': 1.{n}, 'grad_norm': 0.5, 'epoch': 0.{n}}}" for n in range(10, 60))
BACKWARD = traceback(
    ("transformers/trainer.py", "training_step", "self.accelerator.backward(loss)"),
    ("torch/autograd/graph.py", "_engine_run_backward", "return engine.run_backward(roots)"),
    last=error("2.4", **FULL),
)
# Free and reserved memory would together hold the request: splinters, or a request out of the ordinary?
GATHERED = {"tried": 12 * GIB, "total": 40 * GIB, "free": 11 * GIB, "allocated": 20 * GIB,
            "unallocated": 7 * GIB}  # fmt: skip
NOTEBOOK_LINK = (
    "[/usr/local/lib/python3.11/dist-packages/transformers/trainer_pt_utils.py](https://localhost:8080/#)"
    " in torch_pad_and_concatenate(tensor1, tensor2, padding_index)\n"
    "     90 \n---> 91     result = tensor1.new_full(new_shape, padding_index)\n     92     return result\n\n"
)
NOTEBOOK_HEADER = """\
---------------------------------------------------------------------------
OutOfMemoryError                          Traceback (most recent call last)
Cell In[7], line 1
----> 1 metrics = trainer.evaluate()

File /opt/lib/python3.11/site-packages/transformers/trainer.py:4001, in Trainer.evaluate(self, dataset)
   4000 start = time.time()
-> 4001 output = eval_loop(
   4002     loader,

File /opt/lib/python3.11/site-packages/transformers/trainer.py:4200, in Trainer.evaluation_loop(self, loader)
-> 4200     preds_host = nested_concat(preds_host, logits, padding_index=-100)
"""
ENGINE = "(VllmWorker TP1 pid=77) ERROR 01-02 03:04:05 [multiproc_executor.py:671] "
SAMPLER = traceback(
    ("vllm/v1/sample/sampler.py", "forward", "probs = logits.softmax(dim=-1)"),
    last=error("2.4", **{**FULL, "tried": 300 * MIB, "pools": 60 * MIB}),
)
RAY = (
    "(raylet) [2025-01-02 03:04:05,678 E 9 9] (raylet) node_manager.cc:3069: {killed} Workers (tasks / "
    "actors) killed due to memory pressure (OOM), {crashed} Workers crashed due to other reasons at node"
)

# name: (log, cause, confidence)
LOGS = {
    "a hosted notebook's links": (
        NOTEBOOK_LINK + "OutOfMemoryError: " + sentence("1.13", **GATHERED), "evaluation_gather", "likely"),
    "a notebook's header, the end missing": (NOTEBOOK_HEADER, "evaluation_gather", "likely"),
    "a serving engine's own prefix": (
        "\n".join(ENGINE + line for line in SAMPLER.split("\n")), "inference_engine_share", "likely"),
    "the same from docker compose": (
        "\n".join(f"vllm-1     | {ENGINE}{line}" for line in SAMPLER.split("\n")), "inference_engine_share", "likely"),
    "no room for the KV cache": (
        "INFO 01-02 03:04:05 worker.py:267] weights take 5.20GiB; the rest of the memory reserved for KV Cache is -1.05GiB.\n"
        "INFO 01-02 03:04:05 executor_base.py:111] # cuda blocks: 0, # CPU blocks: 4681", "inference_engine_share", "certain"),
    "Ray killed a worker": (RAY.format(killed=2, crashed=0), "host_memory", "certain"),
    "Ray's report of a node": (
        "Memory on the node (IP: 10.0.0.3, ID: ab) where the task (task ID: cd, name=f, pid=3, memory used=11.1GB) was "
        "running was 60.9GB / 64.0GB (0.951), which exceeds the memory usage threshold of 0.95.", "host_memory", "certain"),
    "a worker's bus error": (
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
        "shared_memory", "certain"),
    "PBS": ("=>> PBS: job killed: mem 270532608kb exceeded limit 268435456kb", "container_memory_limit", "certain"),
    "LSF": ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit.", "container_memory_limit", "certain"),
    "Slurm's memory limit": (
        "slurmstepd: error: *** JOB 9 ON n7 CANCELLED AT 2026-01-04T10:02:11 DUE TO MEMORY LIMIT ***", "container_memory_limit", "certain"),
    "Colab": ("Your session crashed after using all available RAM.", "host_memory", "certain"),
    "Kaggle": ("Your notebook tried to allocate more memory than is available. It has restarted.", "host_memory", "certain"),
    "a mapped checkpoint": (
        "RuntimeError: unable to mmap 4976698672 bytes from file </w/model-1.safetensors>: Cannot allocate memory (12)", "host_memory", "certain"),
    "Adam's states in a shortened paste": (
        'torch/optim/adam.py -> state["exp_avg_sq"] = torch.zeros_like(p)\ntorch.OutOfMemoryError: Tried to allocate 3.56 GiB...',
        "optimizer_states", "likely"),
    "quantised weights moved to the GPU": (
        traceback(("torch/nn/modules/module.py", "convert", "return t.to("), ("bitsandbytes/nn/modules.py", "to", "super().to(device=device)"),
                  last=error("2.4", **{**FULL, "tried": 112 * MIB})), "model_load", "likely"),
    "the mask of a long text": (
        traceback(("transformers/models/llama/modeling_llama.py", "_prepare_decoder_attention_mask", "mask = _expand_mask(mask).to(x)"),
                  last=error("1.13", **{**FULL, "tried": 14 * GIB})), "attention_quadratic", "likely"),
    "an 8-bit save": (
        'File "/opt/lib/bitsandbytes/nn/modules.py", line 336, in _save_to_state_dict\n'
        "self.weight.data = undo_layout(self.state.CxB, self.state.tile_indices)\n" + error("1.13", **FULL), "checkpoint_save", "likely"),
    "two ranks writing over each other": (
        "torch.cuda.OutOfMemoryError    : self.optimizer.step()" + sentence("2.1", **{**FULL, "tried": 4 * GIB}), "optimizer_states", "likely"),
    "an engine's warm-up": (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering "
        "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine.", "inference_engine_share", "certain"),
    "embeddings grown while loading": (
        traceback(("/job/build.py", "load_pretrained_model", "model.resize_token_embeddings(len(tokenizer))"), last=error("2.4", **FULL)),
        "model_load", "likely"),
    "the first step after an evaluation": (
        STEPS + "\n{'eval_loss': 1.02, 'eval_runtime': 31.2, 'epoch': 0.6}\n" + BACKWARD, "evaluation", "likely"),
    "many steps after an evaluation": (
        "{'eval_loss': 1.02, 'epoch': 0.1}\n" + STEPS + "\n" + BACKWARD, "length_outlier", "likely"),
    "a bar that repeats the last validation": (
        "\n".join(f"Epoch 1: {n}%|###| {n}/200 [00:10<00:10, train_loss=1.1, val_loss=1.2]" for n in range(9, 60))
        + "\n" + BACKWARD, "length_outlier", "likely"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_the_cause_is_named(name):
    log, cause, confidence = LOGS[name]
    report = explain_text(log)
    assert report.verdict == "cause"
    assert (report.findings[0].cause, report.findings[0].confidence) == (cause, confidence)


UNTOLD = {
    # The prefix says whose process it was, not why.
    "an engine's message alone": (ENGINE + error("2.4", **FULL), "inference_engine_share"),
    "Ray's list of guesses": (
        "SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. There are "
        "some potential root causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage.",
        "host_memory",
    ),
    "a sentence that could not be made": (
        'RuntimeError: NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/src/c10/cuda/CUDACachingAllocator.cpp":1131, please report',
        "unknown",
    ),
    "the allocator's warning at the end": (
        "[W922 05:15:28] memory allocation failed with OOM on device 0 while\n"
        "trying to allocate 3630170112 bytes (free: 202833920, total: 25250627584).",
        "capacity",
    ),
    "a bus error alone": (
        "exitcode  : -7 (pid: 411)\ntraceback : Signal 7 (SIGBUS) received by PID 411",
        "shared_memory",
    ),
    "weights made by an engine, no numbers": (
        traceback(
            ("lmdeploy/turbomind/turbomind.py", "_create_weights", "comm.create_shared_weights(0, rank)"),
            last="RuntimeError: [TM][ERROR] CUDA runtime error: out of memory /src/memory_utils.cu:32",
        ),
        "inference_engine_share",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOLD)
def test_a_candidate_is_no_verdict(name):
    log, candidate = UNTOLD[name]
    report = explain_text(log)
    assert report.verdict == "cannot_tell"
    assert candidate in [finding.cause for finding in report.findings]


@pytest.mark.parametrize(
    "log",
    [
        RAY.format(killed=0, crashed=1),
        "INFO 01-02 03:04:05 executor_base.py:111] # cuda blocks: 2048, # CPU blocks: 512",
        "memory allocation failed with OOM on device 0 while trying to allocate 9 bytes (free: 1, total: 9)\n"
        + STEPS,
        "(EngineCore pid=3) INFO 01-02 03:04:05 [gpu_worker.py:227] Available KV cache memory: 12.12 GiB",
    ],
)
def test_the_same_lines_without_trouble_are_quiet(log):
    assert explain_text(log).verdict == "no_oom"


def test_splinters_stay_the_cause_where_the_request_is_ordinary():
    log = traceback(
        ("torch/nn/functional.py", "cross_entropy", "return f(x)"),
        last=error("2.4", tried=2 * GIB, total=40 * GIB, free=GIB, allocated=25 * GIB, unallocated=13 * GIB),
    )  # fmt: skip
    assert explain_text(log).findings[0].cause == "fragmentation"


def test_a_gpu_without_a_printed_number():
    (found,) = parse_messages(sentence("2.4", **FULL).replace("GPU 0 has", "GPU  has"))
    assert (found.gpu, found.complete) == (None, True)


@pytest.mark.parametrize("own", [0, 1 << 64])
def test_what_the_driver_cannot_say_is_not_another_process(own):
    report = explain_text(error("2.4", **{**FULL, "own": own}))
    assert report.findings[0].cause == "capacity"
    assert any("driver cannot" in note for note in report.notes)


def test_compiled_code_names_its_tensor():
    log = (
        "/tmp/torchinductor_me/bz/cb.py in call(args)\n"
        "--> 408         buf7 = empty_strided_cuda((262208, 2560), (2560, 1), torch.float32)\n"
        "    409         extern_kernels.mm(buf5, buf0, out=buf7)\n"
    ) + error("2.4", **FULL)
    assert explain_text(log).facts["compiled code asked for"] == "262,208 × 2,560 in float32"
