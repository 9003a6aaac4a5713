"use strict";
// Sends the form without leaving the page; the server's page is the same as without this script.
(() => {
  const live = document.getElementById("live");
  const failure = document.getElementById("failure");
  let running = null;

  const fail = (sentence) => {
    live.textContent = "";
    failure.textContent = sentence;
    failure.hidden = false;
    failure.scrollIntoView({ block: "nearest" });
  };

  const markStale = () => {
    const stale = document.getElementById("stale");
    if (!stale || !stale.hidden) return;
    stale.hidden = false;
    document.getElementById("answer").classList.add("old");
    live.textContent = document.getElementById("page").dataset.stale;
  };

  const settle = () => {
    const print = document.getElementById("print");
    if (print) print.hidden = false;
  };

  const send = async (form, button) => {
    const data = new URLSearchParams(new FormData(form));
    data.append(button.name, button.value);
    const words = document.getElementById("page").dataset;
    if (running) running.abort();
    const mine = (running = new AbortController());
    failure.hidden = true;
    live.textContent = words.working;
    let response, text;
    try {
      response = await fetch(form.getAttribute("action"), { method: "POST", body: data, signal: mine.signal });
      text = await response.text();
    } catch (error) {
      if (error.name !== "AbortError") fail(words.unreachable);
      return;
    }
    const next = new DOMParser().parseFromString(text, "text/html");
    if (!response.ok) {
      const said = next.getElementById("problem");
      fail(said ? said.textContent : words.unreachable);
      return;
    }
    document.documentElement.lang = next.documentElement.lang;
    document.title = next.title;
    const target = next.querySelector("#page [autofocus]");
    if (target) target.removeAttribute("autofocus");
    document.getElementById("page").replaceWith(document.adoptNode(next.getElementById("page")));
    settle();
    const answer = document.getElementById("answer");
    const focus = button.name === "to" ? document.getElementById(button.id) : target;
    if (focus) {
      focus.focus({ preventScroll: true });
      focus.scrollIntoView({ block: button.name === "to" ? "nearest" : "start" });
    }
    live.textContent = button.value === "answer" && answer ? answer.dataset.said || "" : "";
  };

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "counts" || !event.submitter) return;
    event.preventDefault();
    send(event.target, event.submitter);
  });
  document.addEventListener("input", (event) => {
    if (event.target.form && event.target.form.id === "counts" && event.target.id !== "paste") markStale();
  });
  document.addEventListener("click", (event) => {
    if (event.target.id === "print") window.print();
  });
  settle();
})();
