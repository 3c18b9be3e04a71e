import { StratalogError } from '../model/errors.js'
import type { StreamRow } from '../model/segment.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { archiveSettings } from './archive-settings.js'
import { archiveOpener } from './archives.js'
import { policyResolver } from './configuration.js'
import type { Ground, Opening } from './ground.js'
import { ringsOf } from './key-rings.js'
import { StreamArchives } from './stream-archives.js'

/** What leads to the archive of a log and to those of some of its streams; closed with the log. */
export function groundArchives(
  { root, options, system, config, live, closers }: Opening,
  logId: string,
  index: SegmentIndex,
): Pick<Ground, 'archive' | 'ownArchives'> {
  const settings = archiveSettings(root, config)
  const abort = new AbortController()
  const current = () => live.current
  const rings = ringsOf(root, options, current, system, async (incarnation) => {
    const stream = await index.stream(incarnation)
    if (stream === null) return null
    const override = await index.policyOverride(incarnation)
    return policyResolver(current).resolve(stream.name, override).policy.encryption?.ring ?? null
  })
  const user = { logId, index, system, signal: abort.signal, rings, settings }
  const archive = archiveOpener(root, options, config, user)
  const policies = policyResolver(current)
  const policy = async (stream: StreamRow) =>
    policies.resolve(stream.name, await index.policyOverride(stream.incarnation))
  const ownArchives = archive && new StreamArchives({ root, log: archive, user, index, policy })
  closers.push(async () => {
    abort.abort(new StratalogError('closed', 'the log is closed'))
    await ownArchives?.close()
    if (archive !== null) await (await archive.opened())?.close()
  })
  return { archive, ownArchives }
}
