/** One registration of a membership. Id and token together name one row. */
export interface Registration {
  /** Of the membership. */
  readonly id: string
  /** Of this registration: higher than that of every earlier one. */
  readonly token: number
}
