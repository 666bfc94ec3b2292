// Where two ends may differ: after a start of the host, or after a recovery in a dead process's stead, nobody can tell who
// wrote meanwhile, so a mirror is compared once more, by a generation of its own. One, and nothing else.

/** Whether an observation is the wanted one, but for at most one further generation that a mirror made. */
export function isAlikeButForMirror(found: string, wanted: string): boolean {
  const [one, other] = [split(found), split(wanted)];
  return one.rest === other.rest && isSameHistory(one, other);
}

/** The same of the generations alone. */
export function isHistoryAlike(found: string, wanted: string): boolean {
  return isSameHistory(split(found), split(wanted));
}

interface Told {
  readonly rest: string;
  /** Its number; undefined where nothing tells. */
  readonly present: number | undefined;
  /** What they were made by, and their images. */
  readonly history: readonly string[];
}

function isSameHistory(found: Told, wanted: Told): boolean {
  const more = found.history.length - wanted.history.length;
  if ((found.present ?? 0) - (wanted.present ?? 0) !== more) return false;
  if (more === 0) return found.history.join("\n") === wanted.history.join("\n");
  if (more !== 1) return false;
  return found.history.some(
    (generation, at) =>
      MADE_BY_MIRROR.test(generation) &&
      found.history.filter((_, index) => index !== at).join("\n") === wanted.history.join("\n"),
  );
}

const MADE_BY_MIRROR = /^mirror [\w ,]*: /;

function split(observed: string): Told {
  const lines = observed.split("\n");
  const present = /^generation (\d+)$/m.exec(observed)?.[1];
  return {
    rest: lines.filter((line) => !/^(?:generation|history) /.test(line)).join("\n"),
    present: present === undefined ? undefined : Number(present),
    history: lines.flatMap((line) => /^history \d+: (.*)$/.exec(line)?.[1] ?? []),
  };
}
