"""Memory snapshots made without a GPU, in the structure that torch.cuda.memory._snapshot documents.

One segment of a given size for each call of `segment`; blocks are cut from it in order. The trace
gets the events that PyTorch's allocator writes, with the keys that it writes.
"""


def frames(*lines):
    """("train.py", 10, "main") … -> frames, innermost first."""
    return [{"filename": file, "line": line, "name": name} for file, line, name in lines]


MODEL = frames(
    ("/x/site-packages/torch/nn/modules/module.py", 1175, "_apply"),
    ("/x/site-packages/torch/nn/modules/module.py", 1340, "to"),
    ("/home/ada/train.py", 20, "main"),
)
FORWARD = frames(
    ("/x/site-packages/torch/nn/modules/linear.py", 125, "forward"),
    ("/home/ada/model.py", 44, "forward"),
    ("/home/ada/train.py", 31, "main"),
)
OPTIMIZER = frames(
    ("/x/site-packages/torch/optim/adam.py", 180, "_init_group"),
    ("/x/site-packages/torch/optim/adam.py", 237, "step"),
    ("/home/ada/train.py", 33, "main"),
)


class Card:
    """A GPU's allocator, as far as a snapshot shows it."""

    def __init__(self):
        self.segments, self.trace, self.time = [], [], 1_700_000_000_000_000

    def _event(self, action, size, frames, **more):
        self.time += 10
        self.trace.append(
            {
                "action": action,
                "size": size,
                "stream": 0,
                "time_us": self.time,
                "compile_context": "N/A",
                "user_metadata": "",
                "pool_id": (0, 0),
                "frames": frames,
                **more,
            }
        )

    def segment(self, size, traced=True):
        address = 0x7F0000000000 + 0x100000000 * len(self.segments)
        self.segments.append({"address": address, "total_size": size, "blocks": []})
        if traced:
            self._event("segment_alloc", size, [], addr=address)
        return len(self.segments) - 1

    def alloc(self, segment, size, frames, traced=True):
        home = self.segments[segment]
        address = home["address"] + sum(b["size"] for b in home["blocks"])
        block = {
            "address": address,
            "size": -(-size // 512) * 512,
            "requested_size": size,
            "state": "active_allocated",
            "frames": frames,
        }
        home["blocks"].append(block)
        if traced:
            self._event("alloc", size, frames, addr=address)
        return block

    def free(self, block):
        for action in ("free_requested", "free_completed"):
            self._event(action, block["requested_size"], [], addr=block["address"])
        block["state"] = "inactive"

    def oom(self, size, free, frames):
        self._event("oom", size, frames, device_free=free, addr=free)

    def snapshot(self):
        segments = []
        for segment in self.segments:
            blocks = list(segment["blocks"])
            rest = segment["total_size"] - sum(b["size"] for b in blocks)
            if rest:
                address = segment["address"] + segment["total_size"] - rest
                blocks.append({"address": address, "size": rest, "requested_size": 0,
                               "state": "inactive", "frames": []})  # fmt: skip
            live = sum(b["size"] for b in blocks if b["state"] == "active_allocated")
            segments.append(
                {
                    **segment,
                    "device": 0,
                    "stream": 0,
                    "segment_type": "large",
                    "segment_pool_id": (0, 0),
                    "is_expandable": False,
                    "allocated_size": live,
                    "active_size": live,
                    "requested_size": live,
                    "frames": [],
                    "blocks": blocks,
                }
            )
        return {
            "segments": segments,
            "device_traces": [self.trace],
            "allocator_settings": {"expandable_segments": False},
            "external_annotations": [],
        }
