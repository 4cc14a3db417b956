import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { gunzipSync } from 'node:zlib'

const BLOCK = 512

/** Unpacks a tarball that npm packed, without its top directory; returns the paths of the files. */
export function untar(tarball: string, directory: string): string[] {
  const archive = gunzipSync(readFileSync(tarball))
  const paths: string[] = []
  for (let at = 0; archive[at];) {
    const text = (offset: number, length: number) =>
      archive.toString('utf8', at + offset, at + offset + length).replace(/\0.*$/s, '')
    const size = parseInt(text(124, 12), 8)
    const path = join(text(345, 155), text(0, 100)).replace(/^package\//, '')
    if (text(156, 1) !== '0') throw new Error(`not a plain file: ${path}`)
    mkdirSync(dirname(join(directory, path)), { recursive: true })
    writeFileSync(join(directory, path), archive.subarray(at + BLOCK, at + BLOCK + size))
    paths.push(path)
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK
  }
  return paths
}
