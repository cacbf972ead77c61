// Lists to begin with. The first three are those of `dear demo`; `models` are used where the server has them.
export const examples = [
  {
    name: "Light bulb",
    models: [null],
    query: "When did Thomas Edison invent the light bulb?",
    passages: [
      "Lightning strike at Seoul National University",
      "Thomas Edison tried to invent a device for car but failed",
      "Coffee is good for diet",
      "KEPCO fixes light problems",
      "Thomas Edison invented the light bulb in 1879",
    ],
  },
  {
    name: "Parking permit",
    models: [null, "legal"],
    query: "parking permit for residents",
    passages: [
      "Residents need a parking permit in town",
      "The parking permit for residents is void",
      "A permit is cheap",
      "Parking permit prices",
      "Garden furniture",
    ],
  },
  {
    name: "Aspirin",
    models: [null, "medical"],
    query: "Does aspirin prevent stroke?",
    passages: [
      "Aspirin may prevent stroke, says a pharmacist",
      "A randomised trial of aspirin",
      "Stroke is a common illness",
      "In a placebo cohort aspirin did prevent stroke",
      "Garden tools on sale",
    ],
  },
  {
    name: "60 passages",
    models: [null],
    query: "opening hours of the town library in winter",
    passages: sixty(),
  },
];

/** Notices of a town, told apart by what they share with the query: enough for several windows. */
function sixty() {
  const places = ["town library", "swimming hall", "museum", "town hall", "market", "harbor office"];
  const facts = ["opening hours in winter", "opening hours", "winter prices", "a new roof", "staff wanted"];
  const ends = ["on the notice board", "says the mayor"];
  return places.flatMap((place) => facts.flatMap((fact) => ends.map((end) => `The ${place}: ${fact}, ${end}`))).reverse();
}
