"""Chapter 2, data: exercises.

Written from solutions/ch02_data.py; don't edit this file. `labs start ch02` copies it to
work/ch02_data/exercises.py: write your answers there, then `labs grade ch02`.
"""

# ruff: noqa: F401  (imports that the answers need)

import math
import random
import re
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import UInt8
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

READING = ("read", "say", "says", "written", "读", "写")


def read_epoch(
    shards: list[list[int]], workers: int, batch: int = 4, decode: Callable = int
) -> list[list]:
    """One epoch over shards of sample numbers, decoded and batched: the batches as they arrive."""

    class Samples(IterableDataset):
        def __iter__(self):
            for shard in shards:
                for number in shard:
                    yield decode(number)

    start = "fork" if workers else None  # a class inside a function cannot be pickled
    loader = DataLoader(
        Samples(), batch, num_workers=workers, collate_fn=list, multiprocessing_context=start
    )
    return list(loader)


SAME_LOG = """
data      7 shards of 9, 21, 4, 16, 11, 19, 13 samples: 93 samples
workers 0 one epoch: 24 batches, 93 samples; first batches [0 1 2 3] [4 5 6 7] [8 9 10 11]
workers 2 one epoch: 48 batches, 186 samples; first batches [0 1 2 3] [0 1 2 3] [4 5 6 7] [4 5 6 7]
          read by worker 0: 93 samples of 7 shards; by worker 1: 93 samples of 7 shards
          random numbers at the start of worker 0: 0.782; of worker 1: 0.694
          epoch 2: the same batches in the same order
"""


class ShuffledStream:
    """An endless stream over `source` (anything with a length and indices), shuffled by a buffer
    and drawn ahead; epoch after epoch.

    Samples are read from the source in order, into a buffer of `buffer` samples, and drawn from it
    at random. `prefetch` samples more than the trainer has asked for are drawn already, and wait in
    a queue.
    """

    def __init__(self, source: Sequence, buffer: int, prefetch: int, seed: int = 0):
        self.source, self.size, self.prefetch = source, buffer, prefetch
        self.rng = random.Random(seed)
        self.epoch, self.place = 0, 0  # `place` is the index that is read next
        self.buffer: list[tuple[int, object]] = []  # (index, sample)
        self.queue: deque[tuple[int, object]] = deque()

    def __iter__(self):
        return self

    def __next__(self):
        while len(self.queue) <= self.prefetch:
            self.queue.append(self.draw())
        return self.queue.popleft()[1]

    def draw(self) -> tuple[int, object]:
        if not self.buffer and self.place == len(self.source):
            self.epoch, self.place = self.epoch + 1, 0
        while len(self.buffer) < self.size and self.place < len(self.source):
            # Every other epoch is read from the end.
            index = self.place if self.epoch % 2 == 0 else len(self.source) - 1 - self.place
            self.buffer.append((index, self.source[index]))
            self.place += 1
        drawn = self.rng.randrange(len(self.buffer))
        self.buffer[drawn], self.buffer[-1] = self.buffer[-1], self.buffer[drawn]
        return self.buffer.pop()


def dhash(pixels: UInt8[np.ndarray, "height width"]) -> int:
    r"""The difference hash of a grey picture: 64 bits that survive rescaling and recompression.

    Cut the picture into a grid of 8 rows and 9 columns of equal cells (`height` is a multiple of 8,
    `width` of 9) and take the average $a_{rc}$ of each cell. Bit $i = 8r + c$, for $r$ and $c$ from
    0 to 7, says whether the brightness rises to the right:

    $$h = \sum_{r,c} 2^{8r + c} \, [a_{r,c+1} > a_{rc}]$$

    Equal averages do not rise. Return a Python `int`, $0 \le h < 2^{64}$; leave `pixels` as they
    are. Graded on noisy pictures, flat areas and pictures of one pixel a cell.
    """
    raise NotImplementedError("dhash: not started")


def near_pairs(hashes: Sequence[int], distance: int, bits: int) -> list[tuple[int, int]]:
    r"""All pairs of hashes that differ in at most `distance` of their `bits` bits, by banding.

    Comparing all with all takes $n(n-1)/2$ comparisons: 220 billion for 665,000 pictures. Instead
    deal the bits out to `distance + 1` *bands*. Where at most `distance` bits differ, at least one
    band has none of them, so only hashes that agree in a whole band can be near. They need not be:
    compare them.

    Return the pairs $(i, j)$, $i < j$, of indices, each once, in ascending order. `bits` need not be
    a multiple of the number of bands. Graded: no pair is missed, wherever its bits lie, none is too
    many, and the cost. For that, take `^` of the hashes as they are given (it is counted: no NumPy,
    no strings); at most one pair in fifty may be compared.
    """
    raise NotImplementedError("near_pairs: not started")


def mixture() -> dict[str, float]:
    r"""A mixture on paper, before anything is downloaded.

    Three sources: `vqa` with 467,000 samples, `instruct` with 158,000, and `text` with 40,000. Those
    of `text` have no picture, the others one each. A run draws 665,000 samples, each from source $i$
    with probability $p_i = n_i^{1/T} / \sum_j n_j^{1/T}$. Return a dict of six numbers:

    - `"text_percent"`: which share of the drawn samples is from `text` at $T = 2$, in per cent.
    - `"text_epochs"`: how often a sample of `text` is seen in the run on average, at $T = 2$.
    - `"text_epochs_equal"`: the same at $T = \infty$.
    - `"visual_megatokens"`: how many visual tokens the model reads in the run at $T = 2$, at 576 a
      picture, in millions.
    - `"shards"`: the 625,000 samples with a picture are stored once, in tar files of at most 1 GB
      (1000³ bytes). A sample takes 153,088 bytes, headers and padding included, and lies whole in
      one file. How many files are that?
    - `"spoiled_percent"`: one sample in 500 is broken. Which share of the steps, of 128 samples
      drawn at random, has at least one of them, in per cent?
    """
    raise NotImplementedError("mixture: not started")


def flip_record(record: dict) -> dict:
    r"""Mirror a sample of the shapes world, left to right, so that its answers stay true.

    A record is `{"id": ..., "image": ..., "conversations": [{"from": ..., "value": ...}, ...]}`: the
    picture is `uint8` of shape [height, width, 3], `from` is `"human"` or `"gpt"`. Return a new
    record of the same form in which

    - the picture is mirrored: its columns in reverse;
    - in every turn the words left and right, Left and Right are swapped, as whole words ("bright"
      stays), and so are 左 and 右; but 左右 ("left and right", or "about") stays as it is;
    - in every turn each box `[left,top,right,bottom]`, four whole numbers in per cent of the side,
      is that of the mirrored picture, written in the same way.

    So "yes" stays "yes": the question is mirrored with the picture. Mirrored text is no text: raise
    `ValueError` where a human turn holds one of the words `READING` (as a whole word in English;
    "already" has nothing to do with reading). The record that comes in stays as it is, turns
    included: it is in a cache and comes again. Graded against the records of the mirrored scenes.
    """
    raise NotImplementedError("flip_record: not started")


def pack_stream(lengths: Sequence[int], capacity: int, buffer: int) -> list[dict]:
    r"""Pack a stream of samples into rows of `capacity` tokens, looking at `buffer` of them at once.

    Sample $i$ has `lengths[i]` tokens. Samples are read in order and wait in a buffer until the row
    that they are in leaves; at no time may more than `buffer` samples have been read and not have
    left, those of the row that is being filled included. Return the rows in the order in which they
    leave, each a dict of three lists:

    - `"samples"`: indices of its samples, in the order in which they lie in the row;
    - `"positions"`: `capacity` numbers, the position of each token within its own sample, from 0;
      0 at padding, which is all at the end;
    - `"segments"`: `capacity` numbers, 1 for the tokens of the first sample, 2 for those of the
      second, and so on; 0 at padding. Attention goes from a token to its own segment only.

    Raise `ValueError` where a sample is longer than a row. Which samples share a row is up to you.
    Graded: each sample whole, in exactly one row, also when there are fewer than the buffer holds;
    the bound of the buffer, seen from which rows leave when; and the efficiency: of the places of
    all rows at least 97 % hold a token, for lengths like LLaVA's, with a buffer of 24. (Rows filled
    in the order of arrival reach about 80 %.)
    """
    raise NotImplementedError("pack_stream: not started")


def same_samples() -> dict:
    r"""A loader that delivers everything twice as soon as it has two workers: find it and mend it.

    `read_epoch` reads shards of a stream by a `DataLoader`. With `workers=0` an epoch is right; with
    two workers each sample comes twice, and nothing complains: the loss falls faster, and the
    validation loss rises sooner. Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key
    of the list, the line of the log that only this cause explains, and a function with the
    parameters and the result of `read_epoch`.

    Graded with real workers: each sample once, for shards of unequal size and for fewer shards than
    workers; each sample decoded once; the decoding shared by the workers that are asked for (where
    there is a shard for each), not done by the main process; and the run without workers unchanged.

    The log:

    ```text
    data      7 shards of 9, 21, 4, 16, 11, 19, 13 samples: 93 samples
    workers 0 one epoch: 24 batches, 93 samples; first batches [0 1 2 3] [4 5 6 7] [8 9 10 11]
    workers 2 one epoch: 48 batches, 186 samples; first batches [0 1 2 3] [0 1 2 3] [4 5 6 7] [4 5 6 7]
              read by worker 0: 93 samples of 7 shards; by worker 1: 93 samples of 7 shards
              random numbers at the start of worker 0: 0.782; of worker 1: 0.694
              epoch 2: the same batches in the same order
    ```

    The diagnosis is one of:

    - `"not_split"`: every worker has a copy of the data set, and reads all of it
    - `"twice_on_disk"`: the shards hold every sample twice
    - `"random_state"`: the workers start with the same random numbers, so they draw the same samples
    - `"next_epoch"`: the workers read ahead into the next epoch
    - `"out_of_order"`: the workers' batches arrive in another order than that of the data
    """

    raise NotImplementedError("same_samples: not started")


class ResumableStream(ShuffledStream):
    r"""A shuffled, prefetched stream that is interrupted anywhere and goes on as if it had not been.

    `ShuffledStream` is given; write its state. After

        state = json.loads(json.dumps(stream.state_dict()))
        other.load_state_dict(state)

    `other`, a stream with the same arguments, fresh or already in use, delivers what `stream` would
    have delivered next: the same samples in the same order, to the end of the epoch and in the
    next ones. What counts is what was *delivered*, not what was drawn ahead.

    Graded: interrupted and resumed equals uninterrupted, at every place in two epochs, without
    prefetching and with; that taking the state does not disturb the run; and the cost. The state
    holds numbers, not samples (samples are pictures), and resuming reads again at most what buffer
    and queue hold, not all that went before.
    """

    def state_dict(self) -> dict:
        """What is needed to go on, as JSON can write it."""
        raise NotImplementedError("ResumableStream: not started")

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state."""
        raise NotImplementedError("ResumableStream: not started")
