/** The machine that the benchmark runs on, and whether anything else runs there. */
import { cpus, loadavg, totalmem, type } from 'node:os'

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryGb: number
  readonly system: string
  readonly node: string
}

/** Above this, something else was at work: do not publish any figure of such a run. */
const QUIET_LOAD = 0.5
const QUIET_FLOOR_MS = 1.5

export function machine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 2 ** 30),
    system: type(),
    node: process.version,
  }
}

export function load(): number {
  return loadavg()[0] ?? NaN
}

/** Why the run was not quiet; undefined: it was. The floor is a bare INSERT and NOTIFY until it is received. */
export function disturbance(loadBefore: number, floorMs: number | undefined): string | undefined {
  if (loadBefore >= QUIET_LOAD) return `the load was ${loadBefore.toFixed(2)} before the start`
  if (floorMs !== undefined && floorMs > QUIET_FLOOR_MS) {
    return `the floor was ${floorMs.toFixed(2)} ms: the disk is busy, and hides the rest`
  }
  return undefined
}
