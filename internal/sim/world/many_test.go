//go:build !race

package world_test

const manyWorlds = 500
