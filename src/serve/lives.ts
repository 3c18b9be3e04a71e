import type { Log } from '../log.js'
import type { ArchiveOwnerDto } from '../model/control-lives.js'

/** Whose archive it is, ready for JSON. */
export async function ownerDto(log: Log): Promise<ArchiveOwnerDto> {
  const { owner, ...rest } = await log.archive.owner()
  return { ...rest, owner: owner === null ? null : { logId: owner.logId, epoch: owner.epoch.toString() } }
}

/** Takes the archive over and says whose it is by then. */
export async function takeOver(log: Log): Promise<ArchiveOwnerDto> {
  await log.archive.takeOver()
  return ownerDto(log)
}
