"""The offline world as training data: an endless, seeded stream cut to a length."""

from collections.abc import Sequence

from labs.formats import Conversation, parse_conversation
from labs.shapes import Mix, stream_record


class WorldDataset:
    """Map-style: `dataset[i]` is conversation i of the stream, always the same for (mix, seed, i).

    length: how many conversations an epoch has. split: "train", "val" or "test"; the splits share
    no scene. lessons: (length, mix) pairs that come first, in order, and count in `length`: some
    skills are learned in minutes alone and not at all in a crowd. Raises IndexError past the end,
    so that plain iteration stops.
    """

    def __init__(
        self,
        length: int,
        mix: Mix | None = None,
        split: str = "train",
        seed: int = 0,
        lessons: Sequence[tuple[int, Mix]] = (),
    ):
        self.length, self.mix, self.split, self.seed = length, mix or Mix(), split, seed
        self.lessons = tuple(lessons)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < self.length:
            raise IndexError(index)
        record = stream_record(self._mix_at(index), index, self.split, self.seed)
        return parse_conversation(record, where=record["id"])

    def _mix_at(self, index: int) -> Mix:
        for length, mix in self.lessons:
            if index < length:
                return mix
            index -= length
        return self.mix
