/** Bad input, in one sentence: what could not be done, why, and what to do. */
export class SaeError extends Error {}
