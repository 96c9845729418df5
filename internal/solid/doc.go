// Package solid makes a solid mesh from a picture: the outline of what it shows,
// inflated like a cushion, with the picture as texture on the front and, seen
// from behind, mirrored on the back. It reconstructs nothing that the picture
// does not show. The simulated providers sell these meshes.
//
// The same picture and options give the same bytes, on the same kind of
// machine. Meshes are closed: every edge belongs to exactly two triangles.
package solid
