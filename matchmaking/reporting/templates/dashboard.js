"use strict";
// The charts: what is drawn is worked out here from the page's tables, and again when a control is turned.
// Texts of the records only ever become text nodes.
(() => {
  const table = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = table("records");
  const specifications = table("charts");
  const runs = data.runs;
  const DAY = 86400000;
  const TINTS = ["#e6f0f7", "#f6efe4", "#e8f3ec", "#f3eaf3"];
  const SIGNS = { promote: "▲", rollback: "▼", elsewhere: "?" };
  const DASHES = { promote: [1, 0], rollback: [2, 2], elsewhere: [8, 4] };
  const CHANGES = { promote: "promoted", rollback: "rolled back", elsewhere: "from elsewhere", "first seen": "first seen" };
  const state = { span: "0", metric: data.primary, slice: 0, difference: data.candidates.primary, pipeline: "" };
  const views = {};
  const FIRST_RUN = runs.start[0] ?? data.made;
  const FIRST = Math.min(FIRST_RUN, data.live ? data.live.end[0] : data.made);
  const element = (id) => document.getElementById(id);

  const day = (time) =>
    new Date(time).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const minute = (time) => `${day(time)} ${new Date(time).toISOString().slice(11, 16)} UTC`;
  const number = (value, digits = 4) => (value === null || value === undefined ? "" : value.toFixed(digits));
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const interval = (low, high, shown = number) =>
    low === null || low === undefined || high === null || high === undefined ? "" : `${shown(low)} to ${shown(high)}`;
  const percent = (share) => (share === null || share === undefined ? "" : `${(100 * share).toFixed(1)} %`);
  const least = () => (Number(state.span) ? data.made - Number(state.span) * DAY : -Infinity);
  const label = (metric) => (data.metrics[metric] || { label: data.candidates.labels[metric] || metric }).label;

  // ------------------------------------------------------------------------------------------------ tables of charts

  function live() {
    const points = [];
    const bands = [];
    const slice = data.live && data.live.slices[state.slice];
    const series = slice && slice.metrics[state.metric];
    const observe = data.live && data.live.run !== null ? runs.url[data.live.run] : "";
    if (series) {
      series.value.forEach((value, place) => {
        const window = slice.first + place;
        const t = data.live.end[window];
        if (t < least()) return;
        const about = {
          t,
          window: `${day(data.live.start[window])} to ${day(t)}`,
          pairs: slice.rows[place],
          complete: percent(slice.completeness[place]),
          model: data.live.model[window],
          url: observe,
        };
        const done = slice.measured[place];
        const [low, high] = [series.low[place], series.high[place]];
        const name = done ? "measured" : "measured so far";
        if (value !== null)
          points.push({ ...about, series: name, value, text: number(value), interval: interval(low, high) });
        // without a value the line is interrupted
        bands.push(done ? { t, series: "measured", value, low, high } : { t, series: "measured", value: null });
        const [guess, from, to] = ["estimate", "estimate_low", "estimate_high"].map((key) => series[key][place]);
        if (guess !== null)
          points.push({ ...about, series: "estimated", value: guess, text: number(guess), interval: interval(from, to) });
        bands.push({ t, series: "estimated", value: guess, low: from, high: to });
      });
    }
    if (!slice || !slice.slice)
      (data.holdout[state.metric] || []).forEach((value, place) => {
        const run = data.holdout.run[place];
        const t = runs.start[run];
        if (value === null || t < least()) return;
        points.push({
          t, series: "held-out rows", value, text: number(value), interval: "", window: runs.name[run], pairs: "",
          complete: "", model: "", url: runs.url[run],
        });
      });
    // many points are drawn small, so that the lines and bands are seen
    const size = points.length > 400 ? 8 : points.length > 150 ? 20 : 46;
    for (const point of points) point.size = size;
    const [first, last] = frame(FIRST).map((each) => each.t);
    const width = element("live").clientWidth - 60;
    const spans = [];
    const changes = [];
    data.reigns.forEach((reign, place) => {
      const start = Math.max(reign.start === null ? -Infinity : reign.start, first);
      const end = reign.end === null ? last : reign.end;
      if (end <= start) return;
      const room = (width * (end - start)) / Math.max(last - first, 1);
      spans.push({
        start, end, name: reign.name, how: CHANGES[reign.how], tint: TINTS[place % TINTS.length], url: reign.url,
        since: reign.start === null ? "always" : minute(reign.start), label: room > 6.5 * reign.name.length ? reign.name : "",
      });
      if (reign.start !== null && reign.start >= first && SIGNS[reign.how])
        changes.push({
          t: reign.start, dash: DASHES[reign.how], sign: SIGNS[reign.how], url: reign.url, when: minute(reign.start),
          text: `${reign.name} ${CHANGES[reign.how]}`,
        });
    });
    return { points, bands, reigns: spans, changes };
  }

  function drift() {
    const found = data.drift;
    const room = Math.max(Math.floor((element("drift").parentNode.clientWidth - 160) / 15), 4);
    const places = found.run.map((_, place) => place).filter((place) => runs.start[found.run[place]] >= least());
    const shown = places.slice(-room);
    element("drift-note").textContent =
      shown.length < places.length ? `The newest ${shown.length} of ${places.length} runs of this span fit here.` : "";
    element("drift").style.maxWidth = `${200 + 60 * shown.length}px`;
    const cells = shown.flatMap((place) => {
      const run = found.run[place];
      const marked = new Set(found.columns_drifted[place]);
      return found.columns.map((column, at) => {
        const [statistic, threshold] = [found.statistic[place][at], found.threshold[place][at]];
        return {
          t: runs.start[run], column, run: runs.name[run], url: found.url[place],
          ratio: statistic === null ? null : threshold ? statistic / threshold : 0,
          statistic: statistic === null ? "not measured" : number(statistic), threshold: number(threshold),
          said: marked.has(at) ? "yes" : "no", sign: marked.has(at) ? "●" : "",
        };
      });
    });
    return { cells };
  }

  function candidates() {
    const found = data.candidates;
    const series = found.metrics[state.difference];
    const differences = [];
    found.run.forEach((run, place) => {
      const value = series && series.difference[place];
      if (value === null || value === undefined || runs.start[run] < least()) return;
      const size = series.margin[place];
      // what has to be gained, of the metric that decides; what may be lost, of the others
      const gain = state.difference === found.primary;
      differences.push({
        t: runs.start[run], value, low: series.low[place], high: series.high[place], margin: gain ? size : -size,
        verdict: runs.verdict[run] || "none", run: runs.name[run], url: runs.url[run], text: signed(value),
        interval: interval(series.low[place], series.high[place], signed),
        need: gain ? `to gain ${number(size)}` : `to lose at most ${number(size)}`,
      });
    });
    return { differences };
  }

  function dataset(name) {
    const points = [];
    data.data.run.forEach((run, place) => {
      if (runs.pipeline[run] !== state.pipeline || runs.start[run] < least()) return;
      const value = data.data[name][place];
      const text = name === "rows" ? value.toLocaleString("en") : percent(value);
      const unseen = name === "unseen_share" ? `${text}, ${data.data.unseen[place]} categories` : text;
      points.push({ t: runs.start[run], value, run: runs.name[run], url: runs.url[run], text: unseen });
    });
    return { points };
  }

  const took = (run) => (runs.end[run] === null ? null : (runs.end[run] - runs.start[run]) / 1000);

  function everyRun() {
    const points = [];
    runs.start.forEach((t, run) => {
      if (t < least()) return;
      points.push({
        t, pipeline: runs.pipeline[run], status: runs.status[run], run: runs.name[run], url: runs.url[run],
        took: took(run) === null ? "" : `${took(run).toFixed(0)} s`, reason: runs.reason[run],
      });
    });
    // what went wrong is drawn last, on top
    points.sort((a, b) => (a.status !== "FINISHED") - (b.status !== "FINISHED"));
    return { points };
  }

  function steps() {
    const points = [];
    let last = [];
    data.steps.run.forEach((run, place) => {
      if (runs.pipeline[run] !== state.pipeline || runs.start[run] < least()) return;
      last = data.steps.names
        .map((step, at) => ({ step, seconds: data.steps.seconds[place][at] }))
        .filter((each) => each.seconds !== null)
        .map((each) => ({ ...each, run: runs.name[run], url: runs.url[run], text: `${each.seconds.toFixed(1)} s` }));
      points.push(...last);
    });
    return { points: points.slice(-600), newest: last };
  }

  const charts = {
    live: [live, "points", "There is nothing to show yet: `observe` measures the pairs of now, `evaluate` the held-out rows."],
    drift: [drift, "cells", "No drift was measured in this span."],
    candidates: [candidates, "differences", "No candidate was compared with production in this span."],
    rows: [() => dataset("rows"), "points", "No run in this span."],
    "match-rate": [() => dataset("match_rate"), "points", "No run in this span."],
    unseen: [() => dataset("unseen_share"), "points", "No run in this span."],
    runs: [everyRun, "points", "No run in this span."],
    steps: [steps, "points", "No run in this span."],
  };

  // the same span of time for all charts of runs: not before the first one, and two days at least
  function frame(first = FIRST_RUN) {
    return [{ t: Math.min(Math.max(least(), first), data.made - 2 * DAY) }, { t: data.made }];
  }

  // ------------------------------------------------------------------------------------------------ drawing

  async function draw(id) {
    const [make, main, nothing] = charts[id];
    const place = element(id);
    // shown before it is measured
    place.classList.remove("empty");
    const tables = make();
    tables.frame = frame(id === "live" ? FIRST : FIRST_RUN);
    const there = tables[main].length > 0 || (id === "live" && tables.reigns.length > 0 && tables.points.length > 0);
    place.classList.toggle("empty", !there);
    const caption = place.parentNode.querySelector("figcaption");
    if (id !== "drift" || !there) {
      if (caption.dataset.text === undefined) caption.dataset.text = caption.textContent;
      caption.textContent = there ? caption.dataset.text : nothing;
    }
    if (!there) return;
    if (views[id]) {
      for (const { name } of specifications[id].data) if (tables[name]) views[id].data(name, tables[name]);
      await views[id].runAsync();
      return;
    }
    const specification = structuredClone(specifications[id]);
    for (const source of specification.data) if (tables[source.name]) source.values = tables[source.name];
    const result = await window.vegaEmbed(place, specification, {
      actions: false,
      mode: "vega",
      // expressions are interpreted, not compiled: the page's policy forbids that
      ast: true,
      renderer: "svg",
      // an empty series has no extent, which Vega warns of
      logLevel: 1,
      loader: { target: "_blank", rel: "noopener noreferrer" },
    });
    views[id] = result.view;
  }

  const ALL = Object.keys(charts);
  const BY = { span: ALL, metric: ["live"], slice: ["live"], difference: ["candidates"], pipeline: ["rows", "match-rate", "unseen", "steps"] };

  function titles() {
    const slice = data.live && data.live.slices[state.slice];
    const of = slice && slice.slice ? `${slice.slice}: ${slice.value || "(empty)"}` : "all pairs";
    const lower = (data.metrics[state.metric] || {}).lower ? ", lower is better" : "";
    element("live-title").textContent = `${label(state.metric)}, ${of}${lower}`;
    element("steps-title").textContent = `Seconds by step${state.pipeline ? ` of ${state.pipeline}` : ""}`;
    const trimmed = data.live && data.live.trimmed && slice && slice.slice ? `Of slices the newest ${data.live.trimmed} windows are here. ` : "";
    const series = slice && slice.metrics[state.metric];
    const last = series ? series.estimate.length - 1 : -1;
    const why = series && ((series.estimate_withheld || {})[last] || (series.withheld || {})[last]);
    element("live-note").dataset.text = trimmed + (why ? `Of the newest window: ${why}.` : "");
  }

  function options(id, found, chosen) {
    const select = element(id);
    const groups = {};
    for (const [value, text, group] of found) {
      const option = new Option(text, value, false, String(value) === String(chosen));
      if (!group) select.append(option);
      else {
        if (!groups[group]) {
          groups[group] = document.createElement("optgroup");
          groups[group].label = group;
          select.append(groups[group]);
        }
        groups[group].append(option);
      }
    }
    select.disabled = found.length < 2;
  }

  function controls() {
    const metrics = Object.keys(data.metrics);
    options("metric", metrics.map((name) => [name, label(name)]), state.metric);
    const slices = data.live ? data.live.slices : [];
    options(
      "slice",
      slices.length ? slices.map((one, at) => [at, one.slice ? one.value || "(empty)" : "all pairs", one.slice]) : [[0, "all pairs"]],
      state.slice,
    );
    options("difference", Object.keys(data.candidates.metrics).map((name) => [name, label(name)]), state.difference);
    const pipelines = [...new Set(data.steps.run.map((run) => runs.pipeline[run]))];
    state.pipeline = pipelines.includes("evaluate") ? "evaluate" : pipelines[0] || "";
    options("pipeline", pipelines.map((name) => [name, name]), state.pipeline);
    state.span = data.made - FIRST > 400 * DAY ? "365" : "0";
    element("span").value = state.span;
    for (const id of Object.keys(BY))
      element(id).addEventListener("change", (event) => {
        state[id] = id === "slice" ? Number(event.target.value) : event.target.value;
        titles();
        ready = redraw(BY[id]);
      });
  }

  const redraw = (ids) => Promise.all(ids.map(draw));

  function age() {
    const days = (Date.now() - data.made) / DAY;
    if (days >= 1) element("age").textContent = `That is ${Math.floor(days)} day${days >= 2 ? "s" : ""} ago.`;
  }

  let ready;
  controls();
  titles();
  age();
  let width = window.innerWidth;
  let waiting;
  window.addEventListener("resize", () => {
    // a phone's address bar changes the height alone
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => (ready = redraw(ALL)), 150);
  });
  // a paper can't be clicked: what is folded is printed
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const each of folded) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of folded) each.open = false;
  });
  ready = redraw(ALL).then(() => {
    document.documentElement.dataset.drawn = String(Math.round(performance.now()));
  });
  window.dashboard = { data, state, views, whenReady: () => ready };
})();
