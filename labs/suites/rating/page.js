// A rating sheet: one item at a time, a vote by click or key, kept in the browser, saved as a file.
// Everything that was written by a model enters the page as text (textContent), never as markup.
"use strict";

(() => {
  const sheet = JSON.parse(document.getElementById("sheet").textContent);
  const words = sheet.words;
  const items = sheet.items;
  const known = new Set(items.map((item) => item.id));
  const choices = ["left", "right", "tie", "both_bad"];
  const keys = {
    1: "left", 2: "right", 3: "tie", 4: "both_bad", ArrowLeft: "left", ArrowRight: "right",
  };
  const store = `labs-rating:${sheet.sheet}`;
  const byId = (id) => document.getElementById(id);
  const say = (text, values) =>
    text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));

  // votes: item id -> {choice, comment, seconds, at}. at: the item in view; items.length is the end.
  let votes = load();
  let at = firstOpen();
  let since = null; // when the item in view began to be looked at; null while the page is hidden

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(store) || "{}");
      const votes = {};
      for (const [id, vote] of Object.entries(kept)) {
        if (known.has(id) && vote && typeof vote === "object") {
          votes[id] = {
            choice: choices.includes(vote.choice) ? vote.choice : null,
            comment: typeof vote.comment === "string" ? vote.comment : "",
            seconds: Number.isFinite(vote.seconds) ? vote.seconds : 0,
            at: typeof vote.at === "string" ? vote.at : null,
          };
        }
      }
      return votes;
    } catch {
      return {}; // no storage, or not ours
    }
  }

  function save() {
    try {
      localStorage.setItem(store, JSON.stringify(votes));
      byId("unsaved").hidden = true;
    } catch {
      byId("unsaved").hidden = false;
    }
  }

  function voteOf(item) {
    votes[item.id] ??= { choice: null, comment: "", seconds: 0, at: null };
    return votes[item.id];
  }

  function answered(item) {
    return Boolean(votes[item.id]?.choice);
  }

  function missing() {
    return items.filter((item) => !answered(item)).length;
  }

  function firstOpen(from = 0) {
    for (let step = 0; step < items.length; step += 1) {
      const index = (from + step) % items.length;
      if (!answered(items[index])) return index;
    }
    return items.length;
  }

  // Time counts while the item is in view and the page is.
  function clock(running) {
    if (since !== null && at < items.length) {
      voteOf(items[at]).seconds += (performance.now() - since) / 1000;
    }
    since = running && !document.hidden ? performance.now() : null;
  }

  function go(index) {
    clock(false);
    at = Math.max(0, Math.min(items.length, index));
    show();
    save();
    clock(true);
    window.scrollTo(0, 0);
    byId(at < items.length ? "question" : "end-title").focus({ preventScroll: true });
  }

  function choose(choice) {
    if (at >= items.length) return;
    clock(true);
    const vote = voteOf(items[at]);
    vote.choice = choice;
    vote.at = new Date().toISOString();
    byId("help").open = false;
    go(firstOpen(at + 1 < items.length ? at + 1 : 0));
  }

  function show() {
    const done = items.length - missing();
    byId("bar").value = done;
    byId("item").hidden = at >= items.length;
    byId("end").hidden = at < items.length;
    byId("place").textContent = say(at < items.length ? words.place : words.place_end, {
      at: at + 1, of: items.length, done,
    });
    if (at < items.length) showItem(items[at]);
    else showEnd();
  }

  function showItem(item) {
    const vote = votes[item.id];
    byId("question").textContent = item.question;
    byId("pictures").replaceChildren(
      ...item.pictures.map((number, place) => {
        const image = new Image();
        image.alt =
          item.pictures.length === 1 ? words.picture_one : say(words.picture, { n: place + 1 });
        image.onload = () => image.classList.toggle("small", image.naturalWidth <= 256);
        image.src = sheet.pictures[number];
        return image;
      }),
    );
    for (const side of ["left", "right"]) {
      const text = byId(side);
      const empty = item[side].trim() === "";
      text.textContent = empty ? words.empty : item[side];
      text.classList.toggle("empty", empty);
      text.parentElement.classList.toggle("chosen", vote?.choice === side);
    }
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.setAttribute("aria-pressed", String(button.dataset.choice === vote?.choice));
    }
    byId("comment").value = vote?.comment ?? "";
    byId("back").disabled = at === 0;
  }

  function showEnd() {
    const left = missing();
    byId("state").textContent = say(left ? words.not_done : words.all_done, {
      of: items.length, missing: left,
    });
    byId("resume").hidden = left === 0;
    byId("message").textContent = "";
    byId("result").value = results();
  }

  function results() {
    const given = items
      .filter((item) => answered(item))
      .map((item) => {
        const vote = votes[item.id];
        const row = {
          item: item.id, choice: vote.choice, seconds: Math.round(vote.seconds * 10) / 10,
          at: vote.at,
        };
        if (vote.comment.trim()) row.comment = vote.comment.trim();
        return row;
      });
    return JSON.stringify(
      {
        format: "labs-rating-votes", version: 1, sheet: sheet.sheet, rater: sheet.rater,
        votes: given,
      },
      null,
      1,
    );
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([results()], { type: "application/json" }));
    link.download = `votes-${sheet.rater}-${sheet.sheet}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    byId("message").textContent = say(words.downloaded, { name: link.download });
  }

  async function copy() {
    const text = byId("result");
    text.value = results();
    try {
      await navigator.clipboard.writeText(text.value);
      byId("message").textContent = words.copied;
    } catch {
      // No clipboard for a file opened from disk in some browsers: select it for the reader.
      text.closest("details").open = true;
      text.focus();
      text.select();
      let done = false;
      try {
        done = document.execCommand("copy");
      } catch {
        done = false;
      }
      byId("message").textContent = done ? words.copied : words.not_copied;
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("textarea, input, select")) return;
    if (event.key === "Backspace") {
      event.preventDefault();
      if (at > 0) go(at - 1);
    } else if (keys[event.key] && at < items.length) {
      event.preventDefault();
      choose(keys[event.key]);
    }
  });
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => choose(button.dataset.choice));
  }
  byId("comment").addEventListener("input", (event) => {
    voteOf(items[at]).comment = event.target.value;
    save();
  });
  byId("back").addEventListener("click", () => go(at - 1));
  byId("next").addEventListener("click", () => go(at + 1));
  byId("results").addEventListener("click", () => go(items.length));
  byId("resume").addEventListener("click", () => go(firstOpen()));
  byId("review").addEventListener("click", () => go(items.length - 1));
  byId("download").addEventListener("click", download);
  byId("copy").addEventListener("click", copy);
  document.addEventListener("visibilitychange", () => {
    clock(true);
    save();
  });
  // The same sheet in a second tab: what is chosen there counts here too.
  window.addEventListener("storage", (event) => {
    if (event.key !== store) return;
    votes = load();
    show();
  });
  window.addEventListener("pagehide", () => {
    clock(false);
    save();
  });

  byId("bar").max = items.length;
  byId("help").open = Object.keys(votes).length === 0;
  show();
  save();
  clock(true);
})();
