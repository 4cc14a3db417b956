/** Collects what is new in the snapshot, and reports it once a tick: many announcements may arrive at once. */

export interface News {
  /** The members that something happened to. undefined: it may be any of them. */
  readonly ids: ReadonlySet<string> | undefined
  /** The snapshot is of another history: positions from before do not count any longer. */
  readonly otherHistory: boolean
  /** All members were read. */
  readonly full: boolean
}

export class NewsOfTick {
  readonly #onNews: (news: News) => void
  #news: { ids: Set<string> | undefined; otherHistory: boolean; full: boolean } | undefined

  constructor(onNews: (news: News) => void) {
    this.#onNews = onNews
  }

  add({ ids, otherHistory, full }: News): void {
    const news = this.#news
    if (news === undefined) {
      this.#news = { ids: ids && new Set(ids), otherHistory, full }
      queueMicrotask(() => this.#tell())
      return
    }
    news.otherHistory ||= otherHistory
    news.full ||= full
    if (ids === undefined) news.ids = undefined
    else for (const id of ids) news.ids?.add(id)
  }

  #tell(): void {
    const news = this.#news
    this.#news = undefined
    if (news !== undefined) this.#onNews(news)
  }
}
