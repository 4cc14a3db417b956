/** Which keys a process believes to have, by the answers that it got. They are those of one registration. */
export class Held {
  #token = 0
  readonly #keys = new Set<string>()
  #copy: ReadonlySet<string> | undefined

  /** Of the registration that has the keys; 0: none had any. */
  get token(): number {
    return this.#token
  }

  /** Nothing, unless this is the registration that has them. */
  by(token: number | undefined): ReadonlySet<string> {
    if (token !== this.#token) return new Set()
    return (this.#copy ??= new Set(this.#keys))
  }

  /** What a registration had goes with it. An answer that comes after that changes nothing. */
  note(token: number, keys: readonly string[], change: 'add' | 'delete'): void {
    if (token < this.#token) return
    if (token > this.#token) this.#keys.clear()
    this.#token = token
    for (const key of keys) this.#keys[change](key)
    this.#copy = undefined
  }
}
