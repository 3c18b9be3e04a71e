import type { FastifyInstance } from 'fastify'
import type { DoctorApi } from '../model/control-doctor.js'

/** The route of `doctor`. */
export function doctorRoutes(app: FastifyInstance, api: DoctorApi, ending: AbortSignal): void {
  app.get('/v1/doctor', () => api.doctor(ending))
}
