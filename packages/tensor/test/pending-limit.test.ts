/** The limit of pending nodes ends no recording in the middle. */
import { expect, test } from "vitest";
import { assign, compile, tensor, zeroStore } from "../src/index.ts";

test("a step recorded after 20,000 nodes replays what it recorded", () => {
  const many = compile((y: ReturnType<typeof tensor>) => { for (let i = 0; i < 20_100; i++) y.add(1); return y.add(1); }); // nobody asks for them
  many(tensor([1]));
  const sum = zeroStore([2]), step = compile((y: ReturnType<typeof tensor>) => { assign([sum], [sum.add(y)]); return y; });
  for (let i = 0; i < 4; i++) step(tensor([1, 2]));
  expect([...sum.dataSync()]).toEqual([4, 8]);
});
