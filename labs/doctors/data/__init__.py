"""The data doctor: what is wrong with a training set, found before a long run pays for it.

Rooms, from the ground up (`tests/test_repository.py` holds them to it):

- kinds, tally, sample, options: what a finding is, how they are counted, a sample, what is asked;
- reading: the format found out by looking, samples streamed with their place, on all cores;
- text: checks of one sample's turns, duplicates, leaks between splits;
- images: pictures opened in children under limits of time and memory, and compared;
- tokens: lengths, special tokens and truncation under a Transformers processor;
- repair: the cleaned copy and its log;
- report: terminal, JSON and HTML;
- commands: what `tools/data_doctor.py` calls.

Above them, files that put rooms together: survey (one pass over the text), gallery (the pictures),
scores (CLIP), check (all of it), pictures (for the page), fix (the cleaned copy).

`text` needs the standard library only (Python 3.9 or newer), `images` needs Pillow, `tokens` needs
Transformers. What cannot be checked for want of a package is said, never passed over.
"""
