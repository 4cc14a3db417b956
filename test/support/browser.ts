/** Chromium, and the page in it. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Browser, chromium, type Page as Tab } from 'playwright-core'
import { expect, onTestFinished } from 'vitest'
import type { Finding } from '../../dist/web/answers.js'
import { type Page, servePage } from '../../dist/web/server.js'
import { databaseUrl } from './database.js'
import { pathOf } from './require-programs.js'

export function startBrowser(): Promise<Browser> {
  return chromium.launch({ executablePath: pathOf('chromium') })
}

export interface OpenOptions {
  readonly schema: string
  readonly connection?: string
  readonly findings?: readonly Finding[]
  readonly hash?: string
  readonly width?: number
  readonly height?: number
  readonly dark?: boolean
}

export interface Opened {
  readonly tab: Tab
  readonly page: Page
}

/** Served by a server of its own. After the test, nothing may have been complained of in the console. */
export async function openPage(browser: Browser, options: OpenOptions): Promise<Opened> {
  const { schema, connection = databaseUrl(), findings = [], hash = '', dark = false } = options
  const page = await servePage({
    connection,
    schema,
    host: '127.0.0.1',
    port: 0,
    diagnose: () => Promise.resolve(findings),
  })
  const context = await browser.newContext({
    viewport: { width: options.width ?? 1280, height: options.height ?? 900 },
    colorScheme: dark ? 'dark' : 'light',
    reducedMotion: 'reduce',
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
  })
  const tab = await context.newPage()
  const complaints: string[] = []
  tab.on('pageerror', (error) => complaints.push(String(error)))
  tab.on('dialog', (dialog) => complaints.push(`a dialog: ${dialog.message()}`))
  tab.on('console', (message) => {
    // Chromium itself says so of every answer that is a refusal, and of a server that has ended.
    if (!message.text().startsWith('Failed to load resource')) complaints.push(message.text())
  })
  tab.on('request', (request) => {
    if (!request.url().startsWith(page.url)) complaints.push(`asked elsewhere: ${request.url()}`)
  })
  onTestFinished(async () => {
    await context.close()
    page.close()
    expect(complaints).toEqual([])
  })
  await tab.goto(page.url + hash)
  return { tab, page }
}

/** Kept only when somebody wants to look: SCREENSHOTS=directory. */
export async function screenshot(tab: Tab, name: string): Promise<void> {
  const directory = process.env.SCREENSHOTS
  if (!directory) return
  mkdirSync(directory, { recursive: true })
  await tab.screenshot({ path: join(directory, `${name}.png`), animations: 'disabled' })
}

/** Texts whose contrast with what is behind them is less than WCAG's level AA asks of them, with the ratio. */
export function faintTexts(tab: Tab): Promise<string[]> {
  return tab.evaluate(FAINT_TEXTS)
}

// As text: it runs in the browser, whose types are not those of tests.
const FAINT_TEXTS = `(() => {
  const rgba = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number)
    return { rgb: [r, g, b], a }
  }
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, a } = rgba(getComputedStyle(at).backgroundColor)
      if (a === 1) return rgb
    }
    return [255, 255, 255]
  }
  const faint = new Set()
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    const text = walker.currentNode.textContent.trim()
    if (text === '' || !element.checkVisibility() || element.closest('.hidden, [disabled], option')) continue
    const [front, back] = [rgba(getComputedStyle(element).color).rgb, behind(element)].map(luminance)
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05)
    if (ratio < 4.5) faint.add(text.slice(0, 30) + ' ' + ratio.toFixed(2))
  }
  return [...faint]
})()`
