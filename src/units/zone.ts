// How far local time is ahead of UTC. The single file has a quicker way, test/tooling/own-zone.ts.

export function minutesAhead(milliseconds: number): number {
  return -new Date(milliseconds).getTimezoneOffset();
}
