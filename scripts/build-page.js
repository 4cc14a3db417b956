/** Bundles the page of `pg-membership web` from web/ into dist/web/page, where its server looks for it. */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** @param {string} path */
const at = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url))

export async function buildPage() {
  await mkdir(at('dist/web/page'), { recursive: true })
  const { metafile } = await build({
    entryPoints: { page: at('web/main.tsx') },
    outdir: at('dist/web/page'),
    bundle: true,
    minify: true,
    format: 'esm',
    // Browsers of 2023 and newer.
    target: ['chrome115', 'firefox115', 'safari16.4'],
    tsconfig: at('web/tsconfig.json'),
    metafile: true,
    logLevel: 'warning',
  })
  for (const file of ['index.html', 'page.css', 'icon.svg']) {
    await copyFile(at(`web/${file}`), at(`dist/web/page/${file}`))
  }

  // The packages that are in the bundle ask for their licences to go with it.
  const packages = Object.keys(metafile.inputs).map(
    (path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1],
  )
  const licences = [...new Set(packages)]
    .sort()
    .flatMap((name) => name ?? [])
    .map(async (name) => {
      return `${name}\n\n${await readFile(at(`node_modules/${name}/LICENSE`), 'utf8')}`
    })
  await writeFile(at('dist/web/page/LICENSES.txt'), (await Promise.all(licences)).join('\n\n'))
}
