/** What a snapshot has that the one before had not. Many announcements may arrive at once: it is told once a turn. */

export interface News {
  /** Whom something happened to; undefined: perhaps to anybody. */
  readonly ids: ReadonlySet<string> | undefined
  /** The snapshot is of another history, so nothing counts that was known from the one before. */
  readonly anew: boolean
  /** All members were read. */
  readonly full: boolean
}

export class NewsOfTurn {
  readonly #onNews: (news: News) => void
  #news: { ids: Set<string> | undefined; anew: boolean; full: boolean } | undefined

  constructor(onNews: (news: News) => void) {
    this.#onNews = onNews
  }

  add({ ids, anew, full }: News): void {
    const news = this.#news
    if (news === undefined) {
      this.#news = { ids: ids && new Set(ids), anew, full }
      queueMicrotask(() => this.#tell())
      return
    }
    news.anew ||= anew
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
