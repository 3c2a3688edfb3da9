// The list beside the view: which layers moved most, and how undecided each one is.

import { entropy } from "./data.js";
import { decidingKind, escape, kindsOf } from "./panels.js";

const SHOWN = 60; // rows; the sorting and the selection reach the others

export function movers(context) {
  const { run, row } = context;
  const kinds = kindsOf(run, context.state.kind);
  const list = context.selected.map((layer) => {
    const kind = decidingKind(run, kinds, [layer]);
    const used = context.statistics.filter((s) => run.share(row, layer, kind, s) !== undefined);
    const now = used.map((s) => run.share(row, layer, kind, s));
    const change = used.map((s, i) => now[i] - run.share(0, layer, kind, s));
    const most = change.reduce((best, x, i) => (Math.abs(x) > Math.abs(change[best]) ? i : best), 0);
    return { layer, statistic: used[most], change: change[most] ?? 0, entropy: entropy(now) };
  });
  const by = {
    moved: (a, b) => Math.abs(b.change) - Math.abs(a.change),
    entropy: (a, b) => a.entropy - b.entropy,
    depth: (a, b) => a.layer - b.layer,
  }[context.state.sort];
  return by ? list.sort(by) : list;
}

export function drawMovers(body, note, context) {
  const list = movers(context);
  const focused = body.contains(document.activeElement) && document.activeElement.dataset.layer;
  body.innerHTML = list
    .slice(0, SHOWN)
    .map(({ layer, statistic, change, entropy: undecided }) => {
      const sign = Number.isNaN(change) ? "" : change < 0 ? "\u2212" : "+";
      const { path } = context.run.layers[layer];
      const chosen = layer === context.layer;
      const colour = context.look.statistics[statistic];
      const width = Math.min(100, Math.abs(change) * 100).toFixed(0);
      return (
        `<tr data-layer="${escape(path)}" tabindex="0" aria-selected="${chosen}">` +
        `<td title="${escape(path)}"><span>${escape(path)}</span></td>` +
        `<td><i style="background:${colour};width:${width}%"></i><b>${context.labels[statistic] ?? ""}</b> ` +
        `${sign}${Math.abs(change).toFixed(2)}</td>` +
        `<td>${undecided.toFixed(2)}</td></tr>`
      );
    })
    .join("");
  if (focused) body.querySelector(`[data-layer="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  note.textContent = list.length > SHOWN ? `${SHOWN} of ${list.length} layers; select by stage or name` : "";
}
