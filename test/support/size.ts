/**
 * How much of something a test tries: `full` with LONG=yes, as `npm run test:long` has it each night; else `little`,
 * so that `npm test` takes minutes.
 */
export function size(full: number, little: number): number {
  return process.env.LONG === 'yes' ? full : little
}
