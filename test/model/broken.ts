/** A promise that was not kept. */
export class Broken extends Error {
  readonly promise: number
  /** When it was broken, by the wall clock; the history around it is what a reader needs. */
  readonly atMs: number

  constructor(promise: number, what: string, atMs = Date.now()) {
    super(`promise ${promise}: ${what}`)
    this.promise = promise
    this.atMs = atMs
  }
}
