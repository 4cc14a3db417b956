/** Plots without a library: bars and curves, readable in light and in dark. */
const STYLE = `
  <style>
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .small { font-size: 11px } .axis { stroke: #8c959f } .bar { fill: #8c959f } .ours { fill: #0969da }
    .line { fill: none; stroke-width: 2 }
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .bar { fill: #6e7681 } .ours { fill: #4493f8 } }
  </style>`
const COLOURS = ['#0969da', '#bf3989', '#1a7f37', '#bc4c00']

export interface Bar {
  readonly label: string
  readonly value: number
  readonly text: string
  readonly isOurs: boolean
}

export function bars(title: string, all: readonly Bar[]): string {
  const [left, width, height] = [270, 380, 30]
  const max = Math.max(...all.map(({ value }) => value))
  const rows = all.map(({ label, value, text, isOurs }, n) => {
    const [y, length] = [50 + n * height, (width * value) / max]
    return `  <text x="${left - 10}" y="${y + 15}" text-anchor="end">${escaped(label)}</text>
  <rect class="${isOurs ? 'ours' : 'bar'}" x="${left}" y="${y}" width="${length.toFixed(1)}" height="20" rx="2"/>
  <text class="small" x="${(left + length + 6).toFixed(1)}" y="${y + 15}">${escaped(text)}</text>`
  })
  return svg(left + width + 110, 60 + all.length * height, title, rows)
}

export interface Curve {
  readonly label: string
  readonly points: readonly (readonly [x: number, y: number])[]
}

/** Both axes are logarithmic. */
export function curves(title: string, xLabel: string, yLabel: string, all: readonly Curve[]): string {
  const [left, top, width, height] = [70, 50, 480, 280]
  const xs = all.flatMap(({ points }) => points.map(([x]) => x))
  const ys = all.flatMap(({ points }) => points.map(([, y]) => y))
  const along = (value: number, values: readonly number[], size: number): number => {
    const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))]
    return high === low ? size / 2 : ((Math.log10(value) - low) / (high - low)) * size
  }
  const at = (x: number, y: number): string =>
    `${(left + along(x, xs, width)).toFixed(1)},${(top + height - along(y, ys, height)).toFixed(1)}`
  const lines = all.map(({ label, points }, n) => {
    const colour = COLOURS[n % COLOURS.length] ?? ''
    const path = points.map(([x, y]) => at(x, y)).join(' ')
    const [, last] = points.at(-1) ?? [1, 1]
    const line = `  <polyline class="line" stroke="${colour}" points="${path}"/>`
    return { label, colour, line, y: top + height - along(last, ys, height) + 4 }
  })
  // Where lines end close to each other, their labels go one below another.
  let free = 0
  const labels = lines
    .toSorted((one, other) => one.y - other.y)
    .map(({ label, colour, y }) => {
      const at = Math.max(y, free)
      free = at + 13
      return `  <text class="small" style="fill: ${colour}" x="${left + width + 8}" y="${at.toFixed(1)}">${escaped(label)}</text>`
    })
  const xTicks = [...new Set(xs)].map(
    (x) =>
      `  <text class="small" x="${(left + along(x, xs, width)).toFixed(1)}" y="${top + height + 18}" text-anchor="middle">${x}</text>`,
  )
  const yTicks = powers(ys).map((y) => {
    const at = (top + height - along(y, ys, height)).toFixed(1)
    return `  <line class="axis" x1="${left - 4}" x2="${left}" y1="${at}" y2="${at}"/>
  <text class="small" x="${left - 8}" y="${(Number(at) + 4).toFixed(1)}" text-anchor="end">${y}</text>`
  })
  return svg(left + width + 150, top + height + 50, title, [
    `  <path class="axis" fill="none" d="M${left},${top} V${top + height} H${left + width}"/>`,
    `  <text class="small" x="${left}" y="${top - 8}">${escaped(yLabel)}</text>`,
    `  <text class="small" x="${left + width}" y="${top + height + 36}" text-anchor="end">${escaped(xLabel)}</text>`,
    ...xTicks,
    ...yTicks,
    ...lines.map(({ line }) => line),
    ...labels,
  ])
}

function powers(values: readonly number[]): number[] {
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const all: number[] = []
  for (let power = -3; power <= 6; power++) {
    for (const digit of [1, 2, 5]) {
      const value = digit * 10 ** power
      if (value >= low && value <= high) all.push(Number(value.toPrecision(1)))
    }
  }
  return all
}

function svg(width: number, height: number, title: string, rows: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img">
  <title>${escaped(title)}</title>${STYLE}
  <text x="10" y="24" font-weight="600">${escaped(title)}</text>
${rows.join('\n')}
</svg>
`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
