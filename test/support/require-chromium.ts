/** The browser of the page's tests. A test that cannot run fails; it is not skipped. */
import { pathOf } from './require-programs.js'

export default function requireChromium(): void {
  pathOf('chromium')
}
