/**
 * Files, as much of them as the local store and the directory archive need. Failures are `StratalogError`s:
 * `disk_full` (ENOSPC, EDQUOT), `file_not_found`, `file_exists`, `access_denied` (EACCES, EPERM, EROFS), else
 * `io_failed`; the system's error is the cause.
 */
export interface Disk {
  /** Names in a directory, in no order. `file_not_found` if there is none. */
  list(path: string): Promise<string[]>
  /** Makes a directory and its parents; one that exists is fine. Durable once `syncDirectory` of the parent returned. */
  makeDirectory(path: string): Promise<void>
  /**
   * Opens a file. `create`: fails with `file_exists` if there is one. `write`, `read`: fail with `file_not_found`.
   * Waits a while where the process has as many files open as it may: that says nothing about the disk.
   */
  open(path: string, mode: 'create' | 'write' | 'read'): Promise<DiskFile>
  /** Atomically gives a file another name, replacing what had it. Durable after `syncDirectory`. */
  rename(from: string, to: string): Promise<void>
  /** Gives a file a second name; `file_exists` if taken: create-if-absent on any POSIX file system. */
  link(existing: string, name: string): Promise<void>
  /** Removes a file; `file_not_found` if there is none. Readers that have it open go on reading. */
  remove(path: string): Promise<void>
  /** Makes creations, renames and removals in this directory durable. */
  syncDirectory(path: string): Promise<void>
  /**
   * Size in bytes and kind, or null if there is nothing. `modifiedMs`: when a file's bytes or a directory's names last
   * changed, by the file system's clock and as fine as that is; left out where nobody knows.
   */
  stat(path: string): Promise<{ sizeBytes: number; directory: boolean; modifiedMs?: number } | null>
  /** Of the file system that holds `path`. `device` tells file systems apart. */
  space(path: string): Promise<{ freeBytes: number; totalBytes: number; device: string }>
}

/** An open file. Calls may overlap; overlapping writes to the same range are the caller's bug. */
export interface DiskFile {
  /**
   * Writes the chunks one after another at `offset`, all or an error (short writes are continued). The chunks
   * belong to the file until the promise settles. Nothing is durable before `dataSync`.
   */
  write(chunks: readonly Uint8Array[], offset: number): Promise<void>
  /** Fills `target` from `offset` as far as the file goes; returns the bytes read, less than asked only at the end. */
  read(target: Uint8Array, offset: number): Promise<number>
  /**
   * Makes what was written durable (fdatasync). After a failure the state of every write since the last success
   * is unknown for ever: never call it again on this file (the page may be marked clean).
   */
  dataSync(): Promise<void>
  /** Reserves and writes zeros up to `sizeBytes` so that later overwrites need no allocation; durable on return. */
  preallocate(sizeBytes: number): Promise<void>
  /** Gives back what lies beyond `sizeBytes`. Not durable by itself: after a crash the file may have its old size. */
  truncate(sizeBytes: number): Promise<void>
  sizeBytes(): Promise<number>
  close(): Promise<void>
}
