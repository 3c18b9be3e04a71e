import type { SystemPorts } from '../options.js'

/** The machine behind the ports, where the caller brings nothing of their own. */
export async function systemPorts(given: Partial<SystemPorts> | undefined): Promise<SystemPorts> {
  const [{ realDisk }, { realClock }, { realRandom }, { createLogger }] = await Promise.all([
    import('../system/disk.js'),
    import('../system/clock.js'),
    import('../system/random.js'),
    import('../system/logger.js'),
  ])
  return {
    disk: given?.disk ?? realDisk(),
    clock: given?.clock ?? realClock(),
    random: given?.random ?? realRandom(),
    logger: given?.logger ?? createLogger(),
  }
}
