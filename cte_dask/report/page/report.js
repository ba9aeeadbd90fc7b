"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stored = bytes(data.values);
  const values = Uint16Array.from({ length: stored.length / 2 }, (_, i) => stored[2 * i] | (stored[2 * i + 1] << 8));
  const winner = bytes(data.winner);
  const NOTHING = 65535, NOT_SCORED = 65534, NO_WINNER = 255;
  const AXES = "zyx";
  // rows, columns and the axis that a slice fixes
  const PLANES = [[1, 2, 0], [1, 0, 2], [0, 2, 1]];
  const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
  const OKABE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999"];
  const DARK = 4; // the one colour that white text stands out from
  const state = { model: 0, at: data.cells.map((n) => n >> 1) };
  const names = [...data.models, ...data.layers];
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const index = (at) => (at[0] * data.cells[1] + at[1]) * data.cells[2] + at[2];
  const valueAt = (model, at) => values[model * data.cells[0] * data.cells[1] * data.cells[2] + index(at)];
  const shown = (value) => (value === NOTHING ? "no foreground" : value === NOT_SCORED ? "not scored" : (value / data.steps).toFixed(3));

  function viridis(part) {
    const at = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1);
    const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
    const mix = (from) => {
      const [a, b] = [low, low + 1].map((i) => parseInt(VIRIDIS[i].slice(from, from + 2), 16));
      return Math.round(a + (b - a) * (at - low));
    };
    return `rgb(${mix(0)},${mix(2)},${mix(4)})`;
  }

  // Voxels of a cell along an axis: the cell holds tile t if floor(t * cells / tiles) is the cell.
  function voxels(axis, cell) {
    const first = (c) => Math.ceil((c * data.tiles[axis]) / data.cells[axis]);
    const stop = Math.min(first(cell + 1) * data.tile[axis], data.shape[axis]);
    return [data.origin[axis] + first(cell) * data.tile[axis], data.origin[axis] + stop - 1];
  }
  const span = ([low, high]) => (low === high ? `${low}` : `${low}–${high}`);

  // Painting ------------------------------------------------------------------------------------
  const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function blank(context, hatched, x, y, w, h) {
    context.fillStyle = themed(hatched ? "--nothing" : "--empty");
    context.fillRect(x, y, w, h);
    context.save();
    context.beginPath();
    context.rect(x, y, w, h);
    context.clip();
    context.strokeStyle = context.fillStyle = themed("--muted");
    const step = Math.max(7 * devicePixelRatio, Math.max(w, h) / 12);
    context.beginPath();
    for (let d = 0; d < w + h; d += step) {
      if (hatched) { context.moveTo(x + d, y); context.lineTo(x + d - h, y + h); }
      else for (let e = step / 2; e < h; e += step) context.rect(x + d, y + e, 1.5, 1.5);
    }
    if (hatched) context.stroke(); else context.fill();
    context.restore();
  }

  function paintValue(context, at, x, y, w, h) {
    const value = valueAt(state.model, at);
    if (value >= NOT_SCORED) return blank(context, value === NOTHING, x, y, w, h);
    const [low, high] = data.ranges[state.model];
    context.fillStyle = viridis((value / data.steps - low) / (high - low));
    context.fillRect(x, y, w, h);
  }

  function paintWinner(context, at, x, y, w, h) {
    const place = winner[index(at)];
    if (place === NO_WINNER) return blank(context, false, x, y, w, h);
    context.fillStyle = OKABE[Math.min(place, OKABE.length - 1)];
    context.fillRect(x, y, w, h);
    const rank = data.models.indexOf(data.winners[place]) + 1;
    const size = Math.min(h * 0.6, w * 0.5, 15 * devicePixelRatio);
    if (size < 8 * devicePixelRatio) return;
    context.fillStyle = place === DARK ? "#fff" : "#000";
    context.font = `700 ${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(rank, x + w / 2, y + h / 2);
  }

  function draw(view, paint) {
    const context = view.canvas.getContext("2d");
    const [width, height] = [view.width, view.height].map((n) => Math.round(n * devicePixelRatio));
    view.canvas.width = width;
    view.canvas.height = height;
    const [rows, columns] = [data.cells[view.rows], data.cells[view.columns]];
    const at = [...state.at];
    const edge = (i, n, length) => Math.round((i * length) / n);
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
      at[view.rows] = r;
      at[view.columns] = c;
      const [x, y] = [edge(c, columns, width), edge(r, rows, height)];
      paint(context, at, x, y, edge(c + 1, columns, width) - x, edge(r + 1, rows, height) - y);
    }
    const [c, r] = [state.at[view.columns], state.at[view.rows]];
    const [x, y] = [edge(c, columns, width), edge(r, rows, height)];
    for (const [style, line] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = line * Math.min(devicePixelRatio, 2);
      context.strokeRect(x + 2, y + 2, edge(c + 1, columns, width) - x - 4, edge(r + 1, rows, height) - y - 4);
    }
    const where = `${AXES[view.fixed]} slice ${state.at[view.fixed] + 1} of ${data.cells[view.fixed]}`;
    view.canvas.setAttribute("aria-label", `${view.title}: ${AXES[view.rows]} down, ${AXES[view.columns]} across, ${where}. Numbers are told above the maps.`);
  }

  // An axis of one cell has no length to show. One that is three times as long as any other goes
  // across the page, one map below the other; two maps of it side by side would be slivers.
  const size = (axis) => data.shape[axis] * (data.voxel.every((v) => v) ? data.voxel[axis] : 1);
  const extents = [0, 1, 2].map((axis) => (data.cells[axis] > 1 ? size(axis) : 0));
  const longest = extents.indexOf(Math.max(...extents));
  const long = extents[longest] > 0 && extents.every((e, axis) => axis === longest || 3 * e <= extents[longest]);
  const planes = shownPlanes();
  const ACROSS = long ? [longest] : planes.length > 1 ? [2, 0] : [planes[0][1]];
  const DOWN = long ? [] : [planes[0][0]];

  // A map of one row or column repeats what another one shows, unless there is no other.
  function shownPlanes() {
    const full = PLANES.filter((plane) => plane.slice(0, 2).every((axis) => data.cells[axis] > 1));
    const line = PLANES.find((plane) => !extents[longest] || plane[2] !== longest);
    return (full.length ? full : [line]).map(([rows, columns, fixed]) => (long && rows === longest ? [columns, rows, fixed] : [rows, columns, fixed]));
  }

  // Lengths of the axes on screen: physical, but with cells that can be seen, within the room.
  function lengths(room) {
    const share = extents.map((e, axis) => (axis || planes.length === 1 || long ? 1 : 0.6) * Math.min(e / (extents[longest] || 1), 1));
    const sum = (numbers, axes) => axes.reduce((total, axis) => total + numbers[axis], 0);
    const unit = Math.min(room / (sum(share, ACROSS) || 1), 440 / (sum(share, DOWN) || 0.1));
    const least = data.cells.map((n) => (n > 1 ? Math.min(Math.max(10 * n, 88), 440) : 44));
    const seen = share.map((s, axis) => Math.max(s * unit, least[axis]));
    const fit = Math.min(1, room / sum(seen, ACROSS));
    return seen.map((length) => Math.floor(length * fit));
  }

  function makeViews(id, title, paint) {
    const box = document.querySelector(`#${id} .planes`);
    const views = planes.map(([rows, columns, fixed]) => {
      const [plane, canvas, axes] = ["div", "canvas", "span"].map((tag) => document.createElement(tag));
      canvas.setAttribute("role", "img");
      axes.className = "small";
      axes.setAttribute("aria-hidden", "true"); // the map's own label tells it in words
      axes.textContent = `${AXES[rows]} ↓ ${AXES[columns]} →`;
      plane.append(canvas, axes);
      box.append(plane);
      const view = { canvas, rows, columns, fixed, title, paint };
      canvas.addEventListener("click", (event) => {
        const part = [event.offsetY / view.height, event.offsetX / view.width];
        [rows, columns].forEach((axis, i) => {
          state.at[axis] = Math.min(Math.floor(part[i] * data.cells[axis]), data.cells[axis] - 1);
        });
        update();
      });
      return view;
    });
    views.resize = () => {
      const room = Math.min(document.getElementById(id).clientWidth, long ? 1200 : 520) - 8;
      const axes = lengths(room);
      for (const view of views) {
        [view.width, view.height] = [axes[view.columns], axes[view.rows]];
        view.canvas.style.width = `${view.width}px`;
        view.canvas.style.height = `${view.height}px`;
      }
    };
    return views;
  }

  // What is shown -------------------------------------------------------------------------------
  function readout() {
    const place = winner[index(state.at)];
    const where = state.at.map((cell, axis) => `${AXES[axis]} ${span(voxels(axis, cell))}`).join(", ");
    const best = place === NO_WINNER ? "No model wins here." : `Most consistent here: ${data.winners[place]} (${shown(valueAt(data.models.indexOf(data.winners[place]), state.at))}).`;
    return `At ${where} (voxels) – ${names[state.model]}: ${shown(valueAt(state.model, state.at))}. ${best}`;
  }

  document.querySelector(".maps").classList.toggle("long", long);
  const views = data.models.length
    ? [...[["map-value", "Consistency", paintValue], ["map-winner", "Winner", paintWinner]].map((v) => makeViews(...v))]
    : [];

  function update() {
    all("#controls [data-axis]").forEach((row, axis) => {
      row.querySelector("input").value = state.at[axis];
      row.querySelector("input").setAttribute("aria-valuetext", `voxels ${span(voxels(axis, state.at[axis]))}`);
      row.querySelector("output").textContent = span(voxels(axis, state.at[axis]));
    });
    document.getElementById("readout").textContent = readout();
    views.flat().forEach((view) => draw(view, view.paint));
  }

  function resize() {
    views.forEach((group) => group.resize());
    update();
  }

  function select(model) {
    state.model = model;
    document.getElementById("model").value = model;
    const layer = model >= data.models.length;
    all(".map-of").forEach((node) => { node.textContent = layer ? "" : "Consistency of "; });
    all(".selected-name").forEach((node) => { node.textContent = names[model]; });
    const [low, high] = data.ranges[model];
    const ends = [`${layer ? "" : "≤ "}${low.toFixed(2)}`, ((low + high) / 2).toFixed(2), high.toFixed(2)];
    all("#map-value .legend text").forEach((node, i) => { node.textContent = ends[i]; });
    document.querySelector("#map-value .legend").setAttribute("aria-label", `Colour scale from ${ends[0]} (dark) to ${ends[2]} (bright)`);
    all("[data-model]").forEach((node) => {
      const chosen = Number(node.dataset.model) === model;
      node.classList.toggle("selected", chosen);
      if (node.tagName === "TR") chosen ? node.setAttribute("aria-current", "true") : node.removeAttribute("aria-current");
    });
    all("[data-gallery]").forEach((node) => { if (node.dataset.gallery === names[model]) node.open = true; });
    update();
  }

  function sortBy(table, column, header) {
    const down = header.getAttribute("aria-sort") === "ascending";
    all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.children[column].dataset.value;
    const known = (text) => text !== "" && text !== "None";
    const compare = (a, b) => {
      if (!known(key(a)) || !known(key(b))) return known(key(b)) - known(key(a)); // unknown ones last
      const numbers = [key(a), key(b)].map(Number);
      const order = numbers.some(Number.isNaN) ? key(a).localeCompare(key(b)) : numbers[0] - numbers[1];
      return down ? -order : order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }

  all("table.sortable").forEach((table) => all("thead th", table).forEach((header, column) => {
    header.querySelector("button")?.addEventListener("click", () => sortBy(table, column, header));
  }));
  if (!data.models.length) return;
  all("#controls [data-axis]").forEach((row, axis) => {
    row.hidden = data.cells[axis] === 1;
    row.querySelector("input").max = data.cells[axis] - 1;
    row.querySelector("input").addEventListener("input", (event) => { state.at[axis] = Number(event.target.value); update(); });
  });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("model").addEventListener("change", (event) => select(Number(event.target.value)));
  all("[data-select]").forEach((button) => button.addEventListener("click", () => select(Number(button.dataset.select))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  addEventListener("resize", resize);
  resize();
  select(0);
})();
