import type { FastifyInstance } from 'fastify'
import type { PolicyApi } from '../model/control-policy.js'

/** The routes of policies beside those of a stream. */
export function policyRoutes(app: FastifyInstance, api: PolicyApi): void {
  app.post('/v1/policy/reload', () => api.policyReload())
}
