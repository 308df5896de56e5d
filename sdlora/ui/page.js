// The page's own widgets, drawn inside gr.HTML. They use no Gradio and no paths: data in, ids and numbers out.
// Everything an artist typed is put in with textContent or value, never as HTML.
(() => {
  const make = (tag, props = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else if (name === "style") for (const [key, to] of Object.entries(value)) node.style.setProperty(key, to);
      else if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const button = (text, act, props = {}) => make("button", { type: "button", textContent: text, on: { click: act }, ...props });
  const root = (element, name) => {
    let host = element.querySelector(":scope > .sd");
    if (!host) element.append(host = make("div", { className: `sd ${name}` }));
    return host;
  };

  // ---- a question to the drawing process: asked, then polled until it is answered
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const question = async (server, kind, about, unsaved) => {
    const lost = () => ({ problem: unsaved });
    let answer = await server.ask([kind, about]).catch(lost);
    for (let wait = 120; answer.waiting; wait = Math.min(wait * 1.3, 1000)) {
      await pause(wait);
      answer = await server.answered(answer.waiting).catch(lost);
    }
    return answer;
  };

  // ---- one picture, large: left and right go through the pictures it was opened with
  const enlarge = (pictures, at) => {
    const image = make("img"), note = make("p"), count = make("p", { className: "count" });
    const show = (to) => {
      at = (to + pictures.length) % pictures.length;
      const item = pictures[at];
      image.src = item.src;
      if (item.full) item.full().then((src) => { if (src && pictures[at] === item) image.src = src; });
      image.alt = pictures[at].alt || "";
      note.textContent = pictures[at].note || pictures[at].alt || "";
      count.textContent = pictures.length > 1 ? `${at + 1} / ${pictures.length}` : "";
    };
    const box = make("dialog", { className: "sd-dialog", on: {
      keydown: (e) => { if (e.key === "ArrowRight") show(at + 1); if (e.key === "ArrowLeft") show(at - 1); },
      click: (e) => { if (e.target === box || e.target === image) box.close(); },
      close: () => box.remove() } },
      image, note, count, button("Close", () => box.close()));
    document.body.append(box);
    show(at);
    box.showModal();
  };
  const picture = (item, all, at) => make("button", { type: "button", className: "enlarge", "aria-label": item.alt || "",
    on: { click: () => enlarge(all, at) } }, make("img", { src: item.src, alt: "" }));

  // ---- act 1: captions under their pictures, saved while typing
  const captions = (element, props, server, trigger) => {
    const host = root(element, "captions");
    const data = props.data || {}, pictures = data.pictures || [], words = data.words || {};
    const ids = `${data.set}|${pictures.map((p) => p.id).join()}`;
    if (host.dataset.ids === ids) {
      for (const p of pictures) {
        const field = host.querySelector(`textarea[data-id="${CSS.escape(p.id)}"]`);
        if (field && field !== document.activeElement && !field.dataset.waiting) field.value = p.caption;
      }
      return;
    }
    host.dataset.ids = ids;
    host.replaceChildren(...pictures.map((p, at) => {
      const status = make("span", { className: "status", role: "status" });
      let timer = 0, sent = p.caption;
      const save = async () => {
        clearTimeout(timer);
        delete field.dataset.waiting;
        if (field.value === sent) return;
        const text = field.value;
        const answer = await server.save_caption([data.set, p.id, text]).catch(() => ({ problem: words.unsaved }));
        if (!answer.problem) sent = text;
        status.textContent = answer.problem || words.saved;
        status.classList.toggle("bad", Boolean(answer.problem));
      };
      const field = make("textarea", { value: p.caption, rows: 2, maxLength: 2000, placeholder: p.fallback || words.empty,
        "data-id": p.id, "aria-label": `${words.caption} ${at + 1}: ${p.name}`,
        on: { input: () => { status.textContent = ""; field.dataset.waiting = "1"; clearTimeout(timer); timer = setTimeout(save, 500); }, blur: save } });
      const [left, top, right, bottom] = p.crop;
      const crop = make("span", { className: "crop", style: { left: `${left * 100}%`, top: `${top * 100}%`,
        width: `${(right - left) * 100}%`, height: `${(bottom - top) * 100}%` } });
      const wide = p.width >= p.height;
      const frame = make("span", { className: "frame", style: { "aspect-ratio": `${p.width} / ${p.height}`, [wide ? "width" : "height"]: "100%" } },
        make("img", { src: p.src, alt: p.caption || p.name }), crop);
      const remove = button("×", () => trigger("delete", { id: p.id }), { className: "remove", title: words.remove, "aria-label": `${words.remove}: ${p.name}` });
      return make("figure", {}, make("div", { className: "tile", title: `${p.name}, ${p.width} × ${p.height}` }, frame, remove), field, status);
    }));
  };

  // ---- what was left out and why
  const notes = (element, props, trigger) => {
    const host = root(element, "notes"), data = props.data || {}, items = data.items || [];
    host.replaceChildren(...(data.notes || []).map((text) => make("p", { textContent: text })),
      ...(items.length ? [make("details", { open: items.length < 6 }, make("summary", { textContent: data.title }),
        make("ul", {}, ...items.map((text) => make("li", { textContent: text }))),
        make("div", { className: "acts" }, button(data.clear, () => trigger("delete"))))] : []));
  };

  // ---- can the base carry these pictures? Asked once for each set of pictures and base
  const carried = async (element, props, server) => {
    const host = root(element, "carried"), asked = JSON.stringify((props.data || {}).about || "");
    if (host.asked === asked) return;
    host.asked = asked;
    host.replaceChildren();
    const answer = asked === '""' ? {} : await question(server, "carry", JSON.parse(asked), "");
    if (host.asked === asked && answer.note) host.replaceChildren(make("p", { textContent: answer.note }));
  };

  // ---- act 2: what the run is doing, what a drawing is doing
  const paintProgress = (host, data) => {
    const now = JSON.stringify(data);
    if (host.now === now) return;
    host.now = now;
    host.className = `sd progress ${data.state || "none"}`;
    const bar = make("div", { className: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-valuenow": data.percent || 0, "aria-label": data.title || "" },
      make("i", { style: { width: `${data.percent || 0}%` } }));
    host.replaceChildren(...(data.title ? [make("div", { className: "line" },
      make("strong", { textContent: data.title }), make("span", { className: "left", textContent: data.left || "" })),
      data.bar ? bar : null, data.src ? make("img", { src: data.src, alt: data.alt || "" }) : null, data.note ? make("p", { className: "note", textContent: data.note }) : null,
      (data.verdict || []).length ? make("ul", { className: "verdict" }, ...data.verdict.map((text) => make("li", { textContent: text }))) : null,
      (data.copied || []).length ? make("div", { className: "copied" }, ...data.copied.map((item) => make("figure", {}, make("img", item), make("figcaption", { textContent: item.alt })))) : null,
      ...(data.notes || []).map((text) => make("p", { className: "notice", textContent: text }))].filter(Boolean) : []));
  };
  const followed = new Set();
  const progress = (element, props, trigger) => {
    const host = root(element, "progress"), data = props.data || {};
    const here = () => ({ stamp: data.stamp ?? null, step: document.querySelector("#strip .sd")?.chosen ?? null });
    Object.assign(host, { data, tick: () => trigger("tick", here()), ofRun: Boolean(element.closest("#progress")) });
    followed.add(host);
    paintProgress(host, data);
  };

  // ---- one line at the top of the page, seen from every tab
  const paintPill = (host, data) => host.replaceChildren(...(data.text ? [make("span", { className: data.state || "", textContent: data.text })] : []));
  const pill = (element, props) => paintPill(root(element, "pill"), props.data || {});

  // ---- one question a second for all that moves; a Gradio event only when there is more to show than progress
  const state = { shelf: "", reading: false };
  const tick = (host, within) => {
    if (Date.now() < (host.next || 0)) return;
    const after = Math.random() * within;  // all tabs learn of a new sample in the same second
    host.next = Date.now() + after + 2000;
    setTimeout(() => host.tick(), after);
  };
  const ask = async () => {
    const run = [...followed].find((host) => host.ofRun), draws = [...followed].filter((host) => host.data.draw);
    if (!run) return 200;
    const id = run.data.run || "";
    const query = new URLSearchParams([["run", id], ...draws.map((host) => ["draw", host.data.draw]), ...(state.reading ? [["shelf", ""]] : [])]);
    const answer = await fetch(`sdlora/poll?${query}`, { cache: "no-cache" });
    if (answer.status === 401) location.reload();
    if (!answer.ok) return 2000;
    const news = await answer.json(), { progress: now, pill: short } = news.run[id];
    state.shelf = news.shelf[""];
    if (id !== (run.data.run || "")) return 0;  // another run was opened meanwhile
    if ((now.run || "") === id) {
      paintProgress(run, now);
      const line = document.querySelector("#pill .sd");
      if (line) paintPill(line, short);
    }
    if ((now.stamp || "") !== (run.data.stamp || "")) tick(run, now.state === run.data.state ? 2500 : 200);
    const samples = document.querySelector("#strip .sd");
    if (samples && (samples.wanted ?? samples.chosen) !== samples.chosen) tick(run, 0);  // an older answer came after that of the choice
    for (const host of draws) {
      const drawing = news.draw[host.data.draw];
      if (drawing) paintProgress(host, drawing); else if (drawing === null) tick(host, 0);
    }
    return draws.length ? 500 : now.bar ? 1000 : 2000;
  };
  const follow = () => ask().catch(() => 2000).then((wait) => setTimeout(follow, document.hidden ? Math.max(wait, 5000) : wait));
  follow();
  // a picture that is gone leaves its place empty
  document.addEventListener("error", (e) => { if (e.target.tagName === "IMG") e.target.style.visibility = "hidden"; }, true);

  // ---- the strip: a column per checkpoint, a row per prompt, any column can be chosen
  const strip = (element, props, trigger) => {
    const host = root(element, "strip"), data = props.data || {}, columns = data.columns || [], rows = data.rows || [];
    host.chosen = data.chosen;
    if (data.run !== host.run || !columns.some((c) => c.choosable && c.step === host.wanted)) delete host.wanted;
    host.run = data.run;
    if (!columns.length) { host.replaceChildren(); return; }
    const before = host.querySelector(".scroll"), followed = !before || before.scrollLeft + before.clientWidth > before.scrollWidth - 8;
    const kept = before ? before.scrollLeft : 0, focused = host.contains(document.activeElement) && document.activeElement.dataset.step;
    const all = [];
    const choose = (step) => { if (data.choosable) { host.wanted = step; trigger("select", { step }); } };
    const head = columns.map((c, at) => make("th", { scope: "col", className: c.chosen ? "chosen" : "" },
      c.choosable ? button(c.mark ? `${c.label} ${c.mark}` : c.label, () => choose(c.step), { className: "pick", "aria-pressed": String(Boolean(c.chosen)),
        title: c.title || "", "data-step": c.step, on: { click: () => choose(c.step), keydown: (e) => {
          const way = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
          if (!way) return;
          for (let to = at + way; columns[to]; to += way) if (columns[to].choosable) { choose(columns[to].step); host.querySelector(`[data-step="${columns[to].step}"]`).focus(); break; }
          e.preventDefault(); } } }) : make("span", { className: "base", textContent: c.label })));
    const body = rows.map((row) => make("tr", {}, make("th", { scope: "row", title: row.prompt, textContent: row.label }),
      ...row.cells.map((cell, at) => {
        const chosen = columns[at].chosen ? "chosen" : "";
        if (!cell) return make("td", { className: `${chosen} empty` });
        all.push({ src: cell, alt: `${columns[at].label}: ${row.prompt}` });
        return make("td", { className: chosen }, picture(all[all.length - 1], all, all.length - 1));
      })));
    const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": data.title || "" },
      make("table", {}, make("thead", {}, make("tr", {}, make("td", { className: "corner", textContent: data.corner || "" }), ...head)), make("tbody", {}, ...body)));
    const room = (host.clientWidth - 150) / columns.length - 6;
    if (host.clientWidth > 700) scroll.style.setProperty("--cell", `${Math.max(92, Math.min(124, Math.floor(room)))}px`);
    host.replaceChildren(scroll);
    scroll.scrollLeft = data.live && followed ? scroll.scrollWidth : kept;
    if (focused) host.querySelector(`[data-step="${focused}"]`)?.focus();
  };

  // ---- drawn pictures with what made them
  const drawn = (element, props, trigger, server) => {
    const host = root(element, "drawn"), data = props.data || {}, cards = data.cards || [], words = data.words || {};
    const all = cards.map((card) => ({ src: card.src, alt: card.prompt, note: `${card.prompt}\n${card.line}`,
      full: () => server.full_picture([card.id, "view"]).then((answer) => answer.src, () => "") }));
    const save = async (card) => {
      const answer = await server.full_picture([card.id, "file"]).catch(() => ({}));
      if (answer.src) make("a", { href: answer.src, download: answer.name }).click();
    };
    host.replaceChildren(...(cards.length ? cards.map((card, at) => make("figure", {},
      picture({ ...all[at], src: card.src }, all, at),
      make("figcaption", {}, make("span", { className: "prompt", textContent: card.prompt }), make("span", { className: "with", textContent: card.line }),
        make("span", { className: "acts" },
          words.again ? button(words.again, () => trigger("select", { id: card.id })) : null,
          button(words.save, () => save(card), { "aria-label": `${words.save}: ${card.prompt}` }),
          button(words.remove, () => { if (confirm(words.sure)) trigger("delete", { id: card.id }); }, { "aria-label": `${words.remove}: ${card.prompt}` })))))
      : [make("p", { className: "none", textContent: data.none || "" })]),
      ...(words.older ? [make("div", { className: "acts none" }, button(words.older, () => trigger("expand")))] : []));
  };

  // ---- past runs: one is opened at a time
  const runs = (element, props, trigger) => {
    const host = root(element, "runs"), data = props.data || {}, cards = data.cards || [];
    host.replaceChildren(...(cards.length ? cards.map((card) => make("button", { type: "button", className: "run", "aria-pressed": String(card.chosen),
      on: { click: () => trigger("select", { id: card.id }) } },
      card.src ? make("img", { src: card.src, alt: "" }) : make("span", { className: "blank" }),
      make("span", {}, make("strong", { textContent: card.title }), make("span", { className: "with", textContent: card.line }))))
      : [make("p", { className: "none", textContent: data.none || "" })]));
  };
  const facts = (element, props) => {
    const host = root(element, "facts"), data = props.data || {};
    host.replaceChildren(...(data.title ? [make("h3", { textContent: data.title }),
      make("dl", {}, ...(data.rows || []).flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]))] : []));
  };

  // Gradio ends its connection when the page is left. A link that downloads must not be taken for that: what is under way would be lost.
  document.addEventListener("click", ({ target }) => {
    const link = target.closest?.('a[href*="sdlora/file/"]');
    if (link) link.download = "";
  }, true);

  window.sdlora = { state, captions, notes, carried, progress, pill, strip, drawn, runs, facts, kit: { make, button, root, question, pause } };
})();
