import { StratalogError } from '../model/errors.js'

/** Paths as callers know them, and as the server does: with the chroot in front. */
export class Paths {
  /** '' for none. */
  readonly #chroot: string

  constructor(chroot: string) {
    this.#chroot = chroot === '/' ? '' : checked(chroot === '' ? '' : chroot, false)
  }

  /** `sequential`: a number will be put behind it, so it may end with a slash. */
  full(path: string, sequential = false): string {
    if (path === '/') return this.#chroot === '' ? '/' : this.#chroot
    return `${this.#chroot}${checked(path, sequential)}`
  }

  own(full: string): string {
    if (this.#chroot === '' || !full.startsWith(this.#chroot)) return full
    return full.length === this.#chroot.length ? '/' : full.slice(this.#chroot.length)
  }
}

function checked(path: string, sequential: boolean): string {
  const whole = sequential ? `${path}0` : path
  const fine = whole === '' || (whole.startsWith('/') && !whole.endsWith('/') && !whole.includes('//'))
  if (fine && !whole.includes('\0') && !/\/\.{1,2}(?:\/|$)/.test(whole)) return path
  throw new StratalogError(
    'invalid_argument',
    `${JSON.stringify(path.slice(0, 200))} is no path of ZooKeeper`,
  )
}
