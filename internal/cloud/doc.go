// Package cloud is the domain of nacre: identifiers, resources, state machines,
// validation and the catalogue of instance types.
//
// It promises to be pure: values in, values out. It never reads a clock, a random source,
// a file or a socket; whatever needs one takes it as a parameter. Every other package may
// import it, and it imports no package of nacre.
//
// Resources are plain structs that the store keeps as JSON. Adding a field is compatible;
// changing the meaning of one is not.
package cloud
