package wire

// Split is split, for the fuzz test.
var Split = split
