/** How a caller ends a wait. */
export interface WaitOptions {
  readonly signal?: AbortSignal
}
