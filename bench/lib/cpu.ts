/** CPU time of a server, all its processes together. Linux only. */
import { readdirSync, readFileSync } from 'node:fs'

/** The process and its children. */
function processesOf(pid: number): number[] {
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const children = all.filter((name) => {
    try {
      // The name of the program is in parentheses, and may have spaces.
      return (
        readFileSync(`/proc/${name}/stat`, 'utf8')
          .replace(/^.*\) /s, '')
          .split(' ')[1] === String(pid)
      )
    } catch {
      return false
    }
  })
  return [pid, ...children.map(Number)]
}

/** The CPU time since they started. The time of a process that ends is lost, so none should end meanwhile. */
export function cpuMs(pid: number): number {
  return processesOf(pid).reduce((ms, one) => ms + ownCpuMs(one), 0)
}

/** The CPU time of this process alone. */
export function ownCpuMs(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
  } catch {
    return 0 // It has just ended.
  }
}
