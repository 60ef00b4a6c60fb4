"""Every kind of finding: a stable id, how bad it is, why it matters, what to do about it.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")
GROUPS = ("file", "turns", "images", "tokens", "copies", "words")


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    severity: "error" (training stops, or silently learns something false), "warning" (costs quality
    or compute, or is wrong more often than not), "note" (worth knowing, harmless where it is meant).
    semantic: judged by a score, so it errs at a rate that is stated; all else is exact.
    repair: what `--fix` does: "drop" the sample, "edit" it, or "keep" it as it is.
    """

    id: str
    group: str
    severity: str
    title: str
    why: str
    fix: str
    repair: str = "keep"
    semantic: bool = False

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES or self.group not in GROUPS:
            raise ValueError(f"kind {self.id}: unknown severity or group")


_ALL = (
    # The file as a file.
    Kind("bad_json", "file", "error", "a record that cannot be parsed",
         "A loader stops at it, or skips it without a word.",
         "Write the line again with a JSON library.", "drop"),
    Kind("cut_off", "file", "error", "the file ends in the middle of a record",
         "The copy or the writer was interrupted: what comes after is missing too.",
         "Fetch or write the file again.", "drop"),
    Kind("bad_encoding", "file", "error", "bytes that are not UTF-8",
         "A loader stops at them; one that ignores errors trains on mangled text.",
         "Convert the file to UTF-8 from the encoding it was written in.", "drop"),
    Kind("not_a_sample", "file", "error", "a record that is no sample",
         "Nothing can be learned from it, and most loaders stop at it.",
         "Give it a list of turns, or remove it.", "drop"),
    Kind("bad_field", "file", "error", "a text or an image that is written in no known way",
         "A loader stops at it, or reads something else.",
         "Write texts as strings, images as paths, and what else the format asks for.", "drop"),
    Kind("duplicate_id", "file", "note", "an id that was used before",
         "Results by id go to the wrong sample; harmless where nothing goes by ids.",
         "Number the samples anew."),
    # Turns.
    Kind("no_turns", "turns", "error", "a conversation without turns",
         "There is nothing to learn.", "Remove it.", "drop"),
    Kind("unknown_role", "turns", "error", "a role that is none of system, user, assistant",
         "The chat template refuses it, or renders it as nothing.",
         "Use human or user, gpt or assistant, system.", "drop"),
    Kind("role_order", "turns", "error", "roles out of order",
         "Many templates refuse it; the others teach the model to answer itself.",
         "Order the turns: an optional system turn, then user and assistant in alternation.", "drop"),
    Kind("no_answer", "turns", "error", "no assistant turn, or the last turn has no answer",
         "No token carries loss, or the last question teaches nothing.",
         "Add the answer, or cut the question off.", "edit"),
    Kind("empty_answer", "turns", "error", "an answer without text",
         "The model learns to end its turn at once.", "Remove question and answer.", "edit"),
    Kind("empty_question", "turns", "warning", "a question without text or image",
         "The model learns to answer what nobody asked.", "Remove question and answer.", "edit"),
    Kind("missing_placeholder", "turns", "error", "fewer <image> placeholders than images",
         "The picture is dropped, or the features do not fit the tokens and training stops.",
         "Write one <image> where each image is shown.", "edit"),
    Kind("surplus_placeholder", "turns", "error", "more <image> placeholders than images",
         "Training stops where features and tokens are counted, or a placeholder is read as text.",
         "Remove the surplus, or add the image.", "drop"),
    Kind("placeholder_in_answer", "turns", "error", "an <image> placeholder in an answer",
         "The model is trained to say the image token.", "Move it to the question.", "drop"),
    Kind("special_token_in_text", "turns", "error", "a special token inside the text of a turn",
         "It is read as the real thing: a turn ends, a role begins, in the middle of a sentence.",
         "Remove it, or break it up so that it is read as letters.", "edit"),
    Kind("foreign_special_token", "turns", "warning", "a special token of another family of models in the text",
         "Left over from a generated answer; this model reads letters and learns to write them.",
         "Remove it."),
    Kind("control_characters", "turns", "warning", "control or replacement characters in the text",
         "Left over from a wrong decoding; the model learns to write them.",
         "Decode the source again; remove what is left.", "edit"),
    Kind("tied_preference", "turns", "warning", "a chosen answer that is also the rejected one",
         "Nothing can be learned from it: DPO's loss stays at log 2.", "Remove it.", "drop"),
    # Images.
    Kind("unsafe_path", "images", "error", "an image path that leaves the data folder",
         "It reads files that are none of the data set's, here or on the cluster.",
         "Copy the image under the data folder, name the right folder with --image-root, or use --follow-links.", "drop"),
    Kind("web_address", "images", "error", "an image that is a web address",
         "Nothing is fetched while training; links rot.", "Download the images first.", "drop"),
    Kind("missing_image", "images", "error", "an image file that is not there",
         "A loader stops at it in the middle of the night, or trains the text without its picture.",
         "Fetch it, correct the path (case counts on Linux), or remove the sample.", "drop"),
    Kind("symlink_loop", "images", "error", "an image path that is a loop of links",
         "It can never be opened.", "Replace the link by the file.", "drop"),
    Kind("unreadable_file", "images", "error", "an image file that may not be read",
         "Training stops at it.", "Mend its permissions.", "drop"),
    Kind("empty_image", "images", "error", "an image file of zero bytes",
         "The copy or download was cut off.", "Fetch it again.", "drop"),
    Kind("truncated_image", "images", "error", "an image that is cut off or damaged",
         "Training stops at it, or trains on a picture that is half grey.", "Fetch it again.", "drop"),
    Kind("not_an_image", "images", "error", "a file that is no image",
         "An error page or a Git-LFS pointer was saved under its name.", "Fetch it again.", "drop"),
    Kind("image_too_large", "images", "error", "an image above the limit of pixels",
         "A decompression bomb: a small file that fills the memory of a worker.",
         "Resize it, or raise --max-pixels if it is really wanted at that size.", "drop"),
    Kind("image_too_slow", "images", "error", "an image whose decoding runs out of time or memory",
         "A worker that hangs or dies takes the run with it.", "Write it again in a plain format.",
         "drop"),
    Kind("absurd_image", "images", "warning", "an image that is tiny or extremely long",
         "After resizing there is nothing left to see, or it costs thousands of visual tokens.",
         "Remove it, or crop it.", "drop"),
    Kind("exif_rotated", "images", "note", "an image that EXIF turns",
         "A loader that ignores EXIF shows it on its side, and left becomes up.",
         "Use a loader that applies EXIF (labs.formats.load_image does)."),
    Kind("unusual_mode", "images", "note", "an image that is not 8-bit RGB or grey",
         "CMYK, 16-bit, palette and alpha become RGB in more ways than one: check that yours is right.",
         "Use a loader that converts (labs.formats.load_image does)."),
    Kind("animated_image", "images", "note", "an animation",
         "Only its first frame is seen.", "Extract the frame that the text is about."),
    # Tokens.
    Kind("answer_cut_off", "tokens", "error", "answers that lie wholly beyond max_length",
         "After truncation no token carries loss: the step is wasted, or its loss is 0/0.",
         "Raise max_length, shorten the sample, or remove it.", "drop"),
    Kind("later_answer_cut_off", "tokens", "warning", "a conversation whose last answers lie beyond max_length",
         "Truncation keeps its beginning; the answers at its end teach nothing.",
         "Raise max_length, or split the conversation."),
    Kind("image_cut_off", "tokens", "error", "image tokens that lie beyond max_length",
         "Truncation leaves fewer image tokens than features and training stops.",
         "Raise max_length, or lower the resolution.", "drop"),
    Kind("overlong", "tokens", "warning", "longer than max_length",
         "The end of the answer is cut off; the model learns to stop in mid-sentence.",
         "Raise max_length, or split the conversation."),
    Kind("template_fails", "tokens", "error", "turns that the chat template refuses",
         "Training stops at it.", "Change the turns or the template.", "drop"),
    Kind("special_token_split", "tokens", "error", "a special token that the tokenizer takes apart",
         "The model never sees it as one token: turns do not end, images are not found.",
         "Add it to the tokenizer as a special token."),
    # Copies.
    Kind("duplicate_sample", "copies", "warning", "a sample that is there twice",
         "It is trained on twice, and counted twice.", "Keep the first.", "drop"),
    Kind("leaked_sample", "copies", "error", "a sample that is also in another split",
         "The test measures memory.", "Remove it from training.", "drop"),
    Kind("leaked_image", "copies", "warning", "an image that is also in another split",
         "The test shows pictures that were trained on.", "Split by image, not by question.", "drop"),
    Kind("near_duplicate_image", "copies", "note", "images that look alike",
         "Nearly the same picture, counted as two.", "Keep one of each group.", semantic=True),
    Kind("leaked_near_duplicate", "copies", "warning", "an image that looks like one of another split",
         "The test shows pictures that were nearly trained on.", "Remove it from training.",
         "drop", semantic=True),
    # Words.
    Kind("refusal", "words", "warning", "an answer that refuses or speaks of being a language model",
         "Written by a model that saw no picture; the model learns to refuse.", "Remove it.", "drop",
         semantic=True),
    Kind("junk_caption", "words", "warning", "a caption that is a file name, an address, markup or a repetition",
         "It says nothing of the picture.", "Write a caption, or remove it.", "drop", semantic=True),
    Kind("shared_caption", "words", "note", "one caption for many images",
         "It fits none of them well.", "Remove them, or caption them anew.", semantic=True),
    Kind("low_clip_score", "words", "warning", "a text that does not fit its picture, by CLIP score",
         "The wrong caption, most likely: the model learns to say what is not there.",
         "Look at them sorted by score, then remove those below your threshold.", "drop", semantic=True),
    Kind("yes_rate", "words", "note", "yes/no questions answered one way",
         "A model that says yes to everything scores well on them, and hallucinates.",
         "Balance the answers (chapter 7 measures what it does)."),
)  # fmt: skip

KINDS: dict[str, Kind] = {kind.id: kind for kind in _ALL}
