// What the server has read: runs, their layers, and their weights as rows of numbers.

export const KINDS = ["mean", "variance", "both", "gate"];
// Whether TensorBoard shows this page; it hides others by taking away their room.
const isShown = () => !document.hidden && window.innerWidth > 0;

async function unpack(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(await response.text());
  const buffer = await response.arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { ...header, values: new Float32Array(buffer, 4 + length) };
}

class Run {
  constructor(description) {
    this.steps = [];
    this.values = new Float32Array(0);
    this.columns = 0;
    this.about = description;
    this.name = description.name;
    this.options = description.options;
    this.layers = description.layers;
    this.stages = [...new Set(this.layers.map((layer) => layer.stage))];
    this.places = new Map(this.layers.map((layer, index) => [layer.path, index]));
    this.index = this.makeIndex();
    this.kinds = KINDS.filter((kind) => this.index[kind]);
    this.cache = new Map(); // curves, until there are new rows
  }

  // This run as it is now described; a new one if rows that were fetched are no longer true.
  now(description) {
    if (description.generation !== this.about.generation) return new Run(description);
    return Object.assign(this, { about: description, options: description.options });
  }

  // {kind: {statistic: the columns to average for each layer, -1 where the layer has none}}
  makeIndex() {
    const index = {};
    this.layers.forEach(({ weights }, layer) => {
      const add = (kind, statistic, first, second = first, left = false) => {
        const entry = ((index[kind] ??= {})[statistic] ??= {
          first: new Int32Array(this.layers.length).fill(-1),
          second: new Int32Array(this.layers.length).fill(-1),
          left, // what this share leaves of 1
        });
        entry.first[layer] = first;
        entry.second[layer] = second;
      };
      for (const [kind, shares] of Object.entries(weights)) {
        for (const [statistic, column] of Object.entries(shares)) {
          add(kind, statistic, column);
          if (kind === "mean" && weights.variance?.[statistic] !== undefined) {
            add("both", statistic, column, weights.variance[statistic]);
          }
        }
        if (kind === "gate") add(kind, "instance", shares.batch, shares.batch, true);
      }
    });
    return index;
  }

  // The share of a statistic in a layer; undefined if the layer does not use it.
  share(row, layer, kind, statistic) {
    const entry = this.index[kind]?.[statistic];
    if (!entry || entry.first[layer] < 0) return undefined;
    const start = row * this.columns;
    const share = (this.values[start + entry.first[layer]] + this.values[start + entry.second[layer]]) / 2;
    return entry.left ? 1 - share : share;
  }

  // The mean share over layers. One that a layer does not use counts as 0, as in `analysis.average`;
  // undefined if no layer uses it.
  mean(row, layers, kind, statistic) {
    let [sum, count, any] = [0, 0, false];
    const others = Object.keys(this.index[kind] ?? {});
    for (const layer of layers) {
      const share = this.share(row, layer, kind, statistic);
      if (share !== undefined) [sum, any] = [sum + share, true];
      if (share !== undefined || others.some((s) => this.index[kind][s].first[layer] >= 0)) count++;
    }
    return any ? sum / count : undefined;
  }

  // [[step, share], ...] of a mean over layers.
  curve(layers, kind, statistic) {
    const key = [layers.join(), kind, statistic].join(" ");
    if (!this.cache.has(key)) {
      const points = this.steps.map((step, row) => [step, this.mean(row, layers, kind, statistic)]);
      this.cache.set(key, points);
    }
    return this.cache.get(key);
  }

  // The last row at or before a step.
  rowAt(step) {
    let [low, high] = [0, this.steps.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.steps[middle] <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  get isLoaded() {
    return this.steps.length >= this.about.rows;
  }

  // Fetches the rows that are missing.
  async load() {
    if (this.isLoaded) return;
    const query = new URLSearchParams({ run: this.name, from: this.steps.length, generation: this.about.generation });
    const { generation, from, steps, columns, values } = await unpack(`weights?${query}`);
    if (generation !== this.about.generation) return; // the next poll describes it anew
    const kept = this.values.subarray(0, from * columns);
    this.values = kept.length ? concatenate(kept, values) : values;
    this.steps = [...this.steps.slice(0, from), ...steps];
    this.columns = columns;
    this.cache.clear();
  }

  async loadGates() {
    if (!this.about.gates || this.gateRows === this.steps.length) return;
    this.gates = await unpack(`gates?${new URLSearchParams({ run: this.name })}`);
    this.gateRows = this.steps.length;
  }
}

function concatenate(first, second) {
  const all = new Float32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}

export const data = { version: -1, runs: new Map(), problems: {}, statistics: [], labels: {}, colours: {} };

// Asks the server what there is. Returns whether anything has changed.
export async function poll() {
  if (data.version >= 0 && !isShown()) return false;
  const response = await fetch(`runs?version=${data.version}`);
  if (!response.ok) throw new Error(`The server answers ${response.status}.`);
  const answer = await response.json();
  const wasReading = data.reading;
  const { runs, ...rest } = answer;
  Object.assign(data, rest);
  if (!runs) return wasReading !== data.reading;
  const old = data.runs;
  data.runs = new Map(
    runs.filter((run) => run.rows).map((description) => {
      const run = old.get(description.name)?.now(description) ?? new Run(description);
      return [description.name, run];
    }),
  );
  const names = [...data.runs.keys()];
  for (const run of data.runs.values()) run.label = shorten(run.name, names);
  return true;
}

// A name without the folders at its beginning and end that all names share.
function shorten(name, names) {
  const split = names.map((other) => other.split("/"));
  if (split.length < 2) return name;
  const same = (place) => split.every((parts) => parts.at(place) === split[0].at(place));
  const shortest = Math.min(...split.map((parts) => parts.length));
  let start = 0;
  let end = 0;
  while (start < shortest - 1 && same(start)) start++;
  while (end < shortest - start - 1 && same(-1 - end)) end++;
  const parts = name.split("/");
  return parts.slice(start, parts.length - end).join("/");
}

export function entropy(shares) {
  const used = shares.filter((share) => share !== undefined);
  if (used.length < 2) return 0;
  return -used.reduce((sum, w) => sum + (w === 0 ? 0 : w * Math.log(w)), 0) / Math.log(used.length);
}
