// Runs as a matrix: a row for each set of options, a column for each seed.

import { data } from "./data.js";

// The option in which repetitions differ, and the groups of runs that differ in nothing else:
// {label: [run, ...]}, in the order of the numbers in their labels.
export function groupRuns(runs) {
  const own = (run) =>
    Object.fromEntries(Object.entries(run.options).filter(([name]) => !data.not_compared.includes(name)));
  const names = [...new Set(runs.flatMap((run) => Object.keys(own(run))))];
  const known = runs.filter((run) => Object.keys(run.options).length);
  const differing = names.filter((name) => new Set(known.map((run) => own(run)[name])).size > 1);
  const groups = new Map();
  for (const run of runs) {
    const label = Object.keys(run.options).length
      ? differing
          .filter((name) => name in run.options)
          .map((name) => `${readable(name)} ${run.options[name]}`)
          .join(", ") || "all runs"
      : run.label;
    if (!groups.has(label)) groups.set(label, []);
    groups.get(label).push(run);
  }
  const numbers = (label) => (label.match(/[\d.]+/g) ?? []).map(Number);
  const compare = ([a], [b]) => {
    const [x, y] = [numbers(a), numbers(b)];
    const place = x.findIndex((number, i) => number !== y[i]);
    return place < 0 ? a.localeCompare(b) : x[place] - y[place];
  };
  return new Map([...groups].sort(compare));
}

const readable = (name) => name.replaceAll("_", " ");

export const seedOf = (run) => ("seed" in run.options ? `seed ${run.options.seed}` : "run");

// Mean and standard deviation; the deviation of a single number is undefined.
export function pooled(numbers) {
  const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
  if (numbers.length < 2) return { mean };
  const squares = numbers.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, spread: Math.sqrt(squares / (numbers.length - 1)) };
}
