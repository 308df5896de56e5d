// The gallery's widgets: the shelf, the mixer, the report of a file. As page.js: data in, ids and numbers out.
(() => {
  const { make, button, root, question, pause } = window.sdlora.kit;

  // ---- what is chosen: one row per LoRA, kept as the value of the mixer's widget and shown on both
  const chosen = {
    rows: [], cards: {}, watchers: [], keep: () => {},
    set(rows) { chosen.rows = rows; chosen.keep(rows); chosen.watchers.forEach((paint) => paint()); },
    has: (id) => chosen.rows.some((row) => row.id === id),
    toggle(card) {
      chosen.cards[card.id] = card;
      chosen.set(chosen.has(card.id) ? chosen.rows.filter((row) => row.id !== card.id)
        : [...chosen.rows, { id: card.id, on: true, strength: card.weight || 1, text: null, start: 0, end: 1, blocks: "" }]);
    },
    change(id, facts) { chosen.set(chosen.rows.map((row) => (row.id === id ? { ...row, ...facts } : row))); },
  };

  // ---- the shelf: a page of cards, chosen with a click
  const shelf = (element, props, trigger, server) => {
    const host = root(element, "shelf"), data = props.data || {}, cards = data.cards || [], words = data.words || {};
    const paint = () => host.querySelectorAll("figure[data-id]").forEach((figure) => {
      figure.classList.toggle("on", chosen.has(figure.dataset.id));
      figure.querySelector(".card").setAttribute("aria-pressed", String(chosen.has(figure.dataset.id)));
    });
    chosen.watchers[0] = paint;
    const now = JSON.stringify(data);
    if (host.now === now) { paint(); return; }
    host.now = now;
    cards.forEach((card) => { chosen.cards[card.id] = card; });
    const card = (card) => make("figure", { "data-id": card.id },
      make("button", { type: "button", className: "card", disabled: Boolean(card.problem), "aria-label": `${words.choose}: ${card.title}`,
        on: { click: () => chosen.toggle(card) } },
        card.src ? make("img", { src: card.src, alt: "", loading: "lazy" }) : make("span", { className: "blank", textContent: "✦" })),
      button(card.starred ? "★" : "☆", () => trigger("favourite", { id: card.id }), { className: "star", title: words.star,
        "aria-pressed": String(card.starred), "aria-label": `${words.star}: ${card.title}` }),
      make("strong", { textContent: card.title }),
      make("span", { className: "trigger", textContent: card.trigger ? `“${card.trigger}”` : "" }),
      make("span", { className: card.problem ? "with status bad" : "with", textContent: card.problem || card.line }),
      make("span", { className: "acts" },
        button(words.details, () => details(card, words, server, trigger), { "aria-label": `${words.details}: ${card.title}` }),
        button(words.download, () => trigger("select", { id: card.id }), { "aria-label": `${words.download}: ${card.title}` }),
        button(words.remove, () => {
          if (chosen.has(card.id)) chosen.toggle(card);
          trigger("delete", { id: card.id });
        }, { "aria-label": `${words.remove}: ${card.title}` })));
    const gone = data.undo ? make("p", { className: "notice", role: "status" }, make("span", { textContent: data.undo.text }),
      button(words.undo, () => trigger("undo", { id: data.undo.id }))) : null;
    const reading = data.reading ? make("p", { className: "with none", role: "status", textContent: data.reading }) : null;
    clearInterval(host.again);
    let turns = 0;
    window.sdlora.state.reading = Boolean(reading);
    if (reading) host.again = setInterval(() => { if (++turns % 5 === 0 || window.sdlora.state.shelf !== data.stamp) trigger("noted"); }, 3000);
    host.replaceChildren(...[gone, reading, ...cards.map(card), cards.length ? null : make("p", { className: "none", textContent: data.none || "" }),
      data.more ? make("div", { className: "acts none" }, button(data.more, () => trigger("expand"))) : null].filter(Boolean));
    paint();
  };

  // ---- the report of one file, and what the artist may write about it
  const details = async (card, words, server, trigger) => {
    const body = make("div", { className: "body" }, make("p", { textContent: words.reading }));
    let changed = false;
    const box = make("dialog", { className: "sd-dialog sd-details", on: { close: () => { box.remove(); if (changed) trigger("noted"); } } },
      make("h3", { textContent: card.title }), body, button(words.close, () => box.close(), { className: "close" }));
    document.body.append(box);
    box.showModal();
    const report = await question(server, "report", card.id, words.unsaved);
    if (report.problem) { body.replaceChildren(make("p", { className: "status bad", textContent: report.problem })); return; }
    const status = make("span", { className: "status", role: "status" });
    const form = (fields) => fields.map((field) => make("label", {}, field.label, make(field.long ? "textarea" : "input",
      { value: field.value, name: field.key, maxLength: field.most, rows: 3 })));
    const filled = (labels) => Object.fromEntries(labels.map((label) => [label.lastChild.name, label.lastChild.value]));
    const facts = form(report.fields), about = form(report.about);
    const save = async () => {
      const answer = await server.save_facts([card.id, filled(facts)]).catch(() => ({ problem: words.unsaved }));
      status.textContent = answer.problem || words.saved;
      status.classList.toggle("bad", Boolean(answer.problem));
      changed = changed || !answer.problem;
    };
    const fetched = async (way) => {
      status.textContent = words.writing;
      const file = await question(server, "convert", [card.id, way, filled(about)], words.unsaved);
      status.textContent = file.problem || file.note || "";
      status.classList.toggle("bad", Boolean(file.problem));
      if (file.made) trigger("select", { id: card.id, made: file.made });
    };
    body.replaceChildren(...[
      ...report.problems.map((text) => make("p", { className: "notice", textContent: text })),
      make("dl", {}, ...report.rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })])),
      report.bars.length ? make("figure", { className: "bars", role: "img", "aria-label": report.bars_title },
        make("figcaption", { textContent: report.bars_title }),
        make("div", {}, ...report.bars.map((bar) => make("span", { title: `${bar.name}: ${bar.text}` },
          make("small", { textContent: bar.text }), make("i", { style: { height: `${bar.percent}%` } }), make("small", { textContent: bar.name }))))) : null,
      report.ignored.length ? make("details", {}, make("summary", { textContent: report.ignored_title }),
        make("ul", {}, ...report.ignored.map((text) => make("li", { textContent: text })))) : null,
      make("div", { className: "facts-form" }, ...facts, make("div", { className: "acts" }, button(words.save, save, { className: "solid" }))),
      make("details", { className: "sharing" }, make("summary", { textContent: report.about_title }),
        make("div", { className: "facts-form" }, ...about), report.private ? make("p", { className: "with", textContent: report.private }) : null),
      make("div", { className: "acts" }, ...report.ways.map((way) => button(way.label, () => fetched(way.key)))), status].filter(Boolean));
  };

  // ---- the mixer: a row per chosen file; what the blend does is measured after every change
  const mixer = (element, props, trigger, server) => {
    const host = root(element, "mixer"), data = props.data || {}, words = data.words || {};
    Object.assign(chosen.cards, data.cards || {});
    chosen.keep = (rows) => { props.value = rows; };
    if (!host.now) {
      host.now = {};
      host.list = make("div", { className: "rows" });
      host.measured = make("div", { className: "measured", "aria-live": "polite" });
      host.saving = make("div");
      host.now.method = "sum";
      host.append(host.list, host.measured, host.saving);
    }
    if (data.method) host.now.method = data.method;
    const rows = () => (Array.isArray(props.value) ? props.value : []);
    const limit = (value, low, high, other) => (Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : other);
    const number = (label, low, high, step, act) => make("input", { type: "number", min: low, max: high, step, inputMode: "decimal",
      "aria-label": label, on: { change: (e) => act(e.target.value.trim() === "" ? null : limit(Number(e.target.value), low, high, null)) } });

    const made = (row) => {
      const card = chosen.cards[row.id] || { title: row.id, trigger: "", src: "" }, name = card.title;
      const put = (facts) => chosen.change(row.id, facts);
      const on = make("input", { type: "checkbox", className: "switch", role: "switch", "aria-label": `${words.on}: ${name}`, on: { change: () => put({ on: on.checked }) } });
      const range = make("input", { type: "range", min: -1, max: 2, step: 0.05, "aria-label": `${words.strength}: ${name}`,
        on: { input: () => put({ strength: Number(range.value) }) } });
      const amount = number(`${words.strength}: ${name}`, -4, 4, 0.05, (value) => put({ strength: value === null ? 1 : value }));
      const text = number(`${words.text}: ${name}`, -4, 4, 0.05, (value) => put({ text: value }));
      const share = (key, other) => number(`${words[key]}: ${name}`, 0, 100, 5, (value) => put({ [key]: value === null ? other : value / 100 }));
      const start = share("start", 0), end = share("end", 1);
      text.placeholder = words.as_strength;
      const blocks = make("input", { "aria-label": `${words.blocks}: ${name}`, maxLength: 400, placeholder: words.all_blocks, on: { change: () => put({ blocks: blocks.value.trim() }) } });
      blocks.setAttribute("list", "mixer-blocks");
      const bar = make("span", { className: "change", title: words.change_info }, make("i"), make("output"));
      const node = make("div", { className: "row", "data-id": row.id },
        make("label", { className: "who" }, on, card.src ? make("img", { src: card.src, alt: "" }) : make("span", { className: "blank", textContent: "✦" }),
          make("span", {}, make("strong", { textContent: name }), card.trigger ? button(`+ ${card.trigger}`, () => trigger("word", { text: card.trigger }),
            { className: "trigger", title: words.add_word, "aria-label": `${words.add_word}: ${card.trigger}` }) : null)),
        make("span", { className: "force" }, range, amount), bar,
        button("×", () => chosen.set(chosen.rows.filter((each) => each.id !== row.id)), { className: "remove", title: words.remove, "aria-label": `${words.remove}: ${name}` }),
        make("details", { className: "more" }, make("summary", { textContent: words.more }), make("div", {},
          make("label", {}, words.text, text), make("label", {}, words.start, start), make("label", {}, words.end, end),
          make("label", { className: "wide" }, words.blocks, blocks))));
      node.paint = (row) => {
        node.classList.toggle("off", !row.on);
        on.checked = row.on;
        const fill = (input, value) => { if (input !== document.activeElement || Number(input.value) !== value) input.value = value; };
        fill(range, row.strength);
        fill(amount, row.strength);
        fill(text, row.text === null ? "" : row.text);
        fill(start, Math.round(row.start * 100));
        fill(end, Math.round(row.end * 100));
        if (blocks !== document.activeElement) blocks.value = row.blocks;
      };
      node.showChange = (measured) => {
        bar.querySelector("output").textContent = measured ? measured.text : "";
        bar.querySelector("i").style.setProperty("--change", measured ? `${measured.percent}%` : "0%");
        bar.classList.toggle("strong", Boolean(measured && measured.strong));
      };
      return node;
    };

    const paint = () => {
      const ids = rows().map((row) => `${row.id} ${(chosen.cards[row.id] || {}).title}`).join("|");
      if (host.now.ids !== ids) {
        host.now.ids = ids;
        const blocks = make("datalist", { id: "mixer-blocks" }, ...(data.blocks || []).map((name) => make("option", { value: name })));
        host.list.replaceChildren(...(rows().length ? [...rows().map(made), blocks] : [make("p", { className: "none", textContent: data.none || "" })]));
      }
      host.list.querySelectorAll(".row").forEach((node, at) => node.paint(rows()[at]));
      const some = rows().some((row) => row.on);
      if (some !== Boolean(host.saving.firstChild)) host.saving.replaceChildren(...(some ? [saving()] : []));
      measure();
      remember();
    };

    const showMeasured = (measured) => {
      const strengths = (given) => () => chosen.set(chosen.rows.map((row) => ({ ...row, ...given[row.id] })));
      host.list.classList.remove("asking");
      host.list.querySelectorAll(".row").forEach((node) => node.showChange((measured.changes || {})[node.dataset.id]));
      host.measured.replaceChildren(...[
        ...(measured.lines || []).map((text) => make("p", { className: "with", textContent: text })),
        measured.problem ? make("p", { className: "status bad", textContent: measured.problem }) : null,
        measured.warning ? make("p", { className: "notice", role: "alert", textContent: measured.warning }) : null,
        make("div", { className: "acts" },
          measured.suggested ? button(words.suggested, strengths(measured.suggested), { className: "solid" }) : null,
          measured.balanced ? button(words.balance, strengths(measured.balanced), { title: words.balance_info }) : null)].filter(Boolean));
    };

    const saving = () => {
      const name = make("input", { maxLength: 80, "aria-label": words.save_name, placeholder: words.save_name });
      const way = make("select", { "aria-label": words.save_size }, ...data.ways.map(([label, way]) => make("option", { value: way, textContent: label })));
      const status = make("span", { className: "status", role: "status" });
      const save = async () => {
        status.textContent = words.writing;
        const answer = await question(server, "save", { rows: rows(), method: host.now.method, name: name.value, way: way.value }, words.unsaved);
        status.textContent = answer.problem || answer.text || "";
        status.classList.toggle("bad", Boolean(answer.problem));
        if (!answer.problem) trigger("saved");
      };
      return make("div", { className: "saving" }, name, way, button(words.save_blend, save, { className: "solid" }), status);
    };

    // one question at a time: the next one is about the mixer as it is when the answer came
    const measure = () => {
      const now = () => JSON.stringify({ rows: rows(), method: host.now.method });
      if (host.now.asked === now()) return;
      host.now.asked = now();
      clearTimeout(host.now.timer);
      if (!rows().some((row) => row.on)) { showMeasured({}); return; }
      host.list.classList.add("asking");
      host.now.timer = setTimeout(async () => {
        if (host.now.busy) { host.now.asked = ""; return; }
        host.now.busy = true;
        const asked = now();
        const measured = await question(server, "interference", JSON.parse(asked), words.unsaved);
        host.now.busy = false;
        if (now() === asked) showMeasured(measured); else { host.now.asked = ""; measure(); }
      }, 500);
    };

    // the browser remembers the rows; a mixer that is still empty after a reload changes nothing of that
    const remember = () => {
      const now = JSON.stringify(rows());
      if (now === (host.now.remembered || "[]")) return;
      host.now.remembered = now;
      clearTimeout(host.now.remembering);
      host.now.remembering = setTimeout(() => trigger("kept", { rows: rows() }), 400);
    };
    chosen.rows = rows();
    chosen.watchers[1] = paint;
    chosen.watchers.forEach((each) => each && each());
  };

  // ---- the picture to start from; what is painted white is redrawn
  const inpaint = (element, props) => {
    const host = root(element, "inpaint"), data = props.data || {}, words = data.words || {}, id = (props.value || {}).id;
    if (host.now === id) return;
    host.now = id;
    if (!id || !data.src) { host.replaceChildren(); return; }
    const image = make("img", { src: data.src, alt: words.alt }), paint = make("canvas", { "aria-label": words.paint });
    const size = make("input", { type: "range", min: 4, max: 96, value: 36, "aria-label": words.brush });
    const pen = paint.getContext("2d");
    let last = null;
    image.onload = () => { paint.width = image.naturalWidth; paint.height = image.naturalHeight; };
    const at = (e) => {
      const box = paint.getBoundingClientRect(), scale = paint.width / box.width;
      return [(e.clientX - box.left) * scale, (e.clientY - box.top) * scale];
    };
    const stroke = (e) => {
      const [x, y] = at(e);
      Object.assign(pen, { lineWidth: Number(size.value) * paint.width / 384, lineCap: "round", strokeStyle: "#fff" });
      pen.beginPath();
      pen.moveTo(...(last || [x, y]));
      pen.lineTo(x, y + (last ? 0 : 0.01));
      pen.stroke();
      last = [x, y];
    };
    const keep = () => {
      if (!last) return;
      last = null;
      const mask = make("canvas", { width: paint.width, height: paint.height }), dark = mask.getContext("2d");
      dark.fillRect(0, 0, mask.width, mask.height);
      dark.drawImage(paint, 0, 0);
      props.value = { id, mask: mask.toDataURL("image/png") };
    };
    paint.addEventListener("pointerdown", (e) => { paint.setPointerCapture(e.pointerId); stroke(e); });
    paint.addEventListener("pointermove", (e) => { if (last) stroke(e); });
    for (const end of ["pointerup", "pointercancel"]) paint.addEventListener(end, keep);
    host.replaceChildren(make("div", { className: "board" }, image, paint), make("p", { className: "with", textContent: words.paint }),
      make("label", {}, words.brush, size), make("div", { className: "acts" },
        button(words.clear, () => { pen.clearRect(0, 0, paint.width, paint.height); props.value = { id, mask: "" }; }),
        button(words.remove, () => { props.value = null; })));
  };

  Object.assign(window.sdlora, { shelf, mixer, inpaint });
})();
