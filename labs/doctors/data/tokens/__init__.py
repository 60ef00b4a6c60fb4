"""What a Transformers processor makes of the samples: lengths, truncation, special tokens, CLIP score.

- loading: processors and tokenizers by folder or hub name;
- dialogue: turns as the chat template's text; lengths: tokens of a text; pictures: visual tokens by
  size; special: tokens that must stay whole; checker: all of it for one sample;
- clip_model, clip: whether texts fit their pictures.

Needs Transformers (and torch for CLIP), imported when a checker is made. Python 3.9 or newer.
"""

from labs.doctors.data.tokens.checker import Checker, make_checker
from labs.doctors.data.tokens.clip import ClipReport, check_clip, text_to_score

__all__ = ["Checker", "ClipReport", "check_clip", "make_checker", "text_to_score"]
