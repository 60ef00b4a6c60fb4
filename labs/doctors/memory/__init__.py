"""The memory doctor: what a run will need, what it needs now, and why it died.

What all of it shares stands here: `plan.py` (the question of a prediction), `causes.py` and
`remedies.py` (the catalogues), `phases.py` (stacks), `cards.py`, `bytesize.py`. The rest lives in
rooms, each with one job; what a room may import of the others stands behind it, and a test holds it.

    log/        why a run died, from its log alone; standard library only
    snapshot/   a PyTorch memory snapshot, read without trusting it, analysed without a GPU
    follow/     what is alive in this process: the follower, byte budgets, offloading
    cuda/       what a GPU does that a CPU does not: the caching allocator, kernels
    setup/      what a plan stands for: configuration, batch, model, optimizer
    trace/      one step of a plan, run on fake tensors        follow, cuda, setup
    forecast/   what a run will need, and what to change       trace, cuda, setup
    live/       what is seen of a run, inside and outside      follow, snapshot
    death/      why an observed run died                       live
    guard/      for a program's author: guard and callbacks    death, live, follow, snapshot, log
    commands/   the command lines of `tools/oom_doctor.py`     all

What `run` loads into the processes it observes (`live/library.py` lists it) imports only the other
files of that list, with dots: there it is a package of its own.
"""
