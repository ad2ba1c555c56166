//go:build !race

package world_test

// manyWorlds: CI simulates 100,000 besides.
const manyWorlds = 4000
