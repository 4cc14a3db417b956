/**
 * Structural; pino and console fit. All details have `cluster`; those of an error have it as `err`, the key
 * under which pino prints errors, and what was being done as `doing`.
 */
export interface Logger {
  debug(details: object, message: string): void
  info(details: object, message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}
